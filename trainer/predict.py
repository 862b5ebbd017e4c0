"""A SavedModel over a folder of images: masks to use, overlays to look at.

Nothing of the trainer's model code is needed here: the SavedModel is all there is.
"""

import os
import sys

import cv2
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from preprocess import files
from preprocess.errors import UserError
from preprocess.images import Page, count_pages, is_image, read_image, write_png

SIGNATURE = "serving_default"
# Colour-blind safe (Okabe and Ito), one a class after the background; RGB.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0)],
    np.uint8,
)


def newest_version(model: str) -> str:
    """The SavedModel's folder: the given one, or the largest version inside.

    Raises:
      UserError: no SavedModel there.
    """
    if files.exists(files.join(model, "saved_model.pb")):
        return model
    versions = [name for name in files.list_folders(model) if name.isdigit()]
    for name in sorted(versions, key=int, reverse=True):
        if files.exists(files.join(model, name, "saved_model.pb")):
            return files.join(model, name)
    raise UserError(
        f"{model}: no saved_model.pb in it or in a version's folder; "
        "--model names the folder that export made"
    )


def find_images(source: str) -> tuple[list[Page], list[str]]:
    """Images of a folder, a glob or one file, every page of every file.

    Returns:
      The pages, and a line for each file that can't be opened.

    Raises:
      UserError: no images there.
    """
    if os.path.isfile(source):
        found = [source]
    elif os.path.isdir(source) or (files.is_remote(source) and "*" not in source):
        found = files.list_files(source)
    else:
        found = files.glob(source)
    paths = [path for path in found if is_image(path)]
    if not paths:
        raise UserError(f"{source}: no TIFF, PNG or JPEG images there; see --input")
    pages: list[Page] = []
    problems: list[str] = []
    for path in paths:
        try:
            pages += [Page(path, number) for number in range(count_pages(path))]
        except UserError as error:
            problems += error.problems
    return pages, problems


def output_names(pages: list[Page]) -> list[str]:
    """A name for each page's outputs: the file's stem, and its page in a stack.

    Raises:
      UserError: two files would write the same outputs.
    """
    in_stacks = {page.path for page in pages if page.number}
    names: dict[str, Page] = {}
    for page in pages:
        name = os.path.splitext(files.basename(page.path))[0]
        if page.path in in_stacks:
            name += f"-z{page.number:03d}"
        if name in names:
            raise UserError(
                f"{page.path}: its outputs would overwrite those of {names[name]}; "
                "rename one of them"
            )
        names[name] = page
    return list(names)


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The image with classes tinted and outlined.

    Args:
      image: uint8 or uint16 [H, W, C].
      classes: uint8 [H, W].

    Returns:
      uint8 RGB [H, W, 3].
    """
    seen = image if image.shape[2] == 3 else image[..., :1]
    low, high = np.percentile(seen, (0.5, 99.5))
    grey = np.clip((seen - low) / max(high - low, 1e-6) * 255, 0, 255)
    picture = np.broadcast_to(grey, (*image.shape[:2], 3)).astype(np.uint8)
    tint = COLOURS[(classes.astype(int) - 1) % len(COLOURS)]
    inside = (classes > 0)[..., None]
    picture = np.where(inside, picture * 0.7 + tint * 0.3, picture).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    outline = cv2.morphologyEx(classes, cv2.MORPH_GRADIENT, kernel) > 0
    picture[outline & (classes > 0)] = tint[outline & (classes > 0)]
    return picture


def load(path: str):
    """The signature of a SavedModel that takes raw images, and their channels.

    Raises:
      UserError: broken, or made by something else.
    """
    try:
        model = tf.saved_model.load(path)
        segment = model.signatures[SIGNATURE]
        channels = segment.structured_input_signature[1]["image"].shape[-1]
    except Exception as error:
        # TensorFlow raises anything from OSError to KeyError here.
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: not a SavedModel of export's ({reason})") from error
    segment.model = model  # the signature alone does not keep its variables alive
    return segment, channels


def predict(model: str, source: str, output: str) -> int:
    """Segments every image and writes NAME_mask.png and NAME_overlay.png.

    Args:
      model: a SavedModel's folder, or the folder of its versions.
      source: a folder or glob of images.
      output: the folder for masks (class numbers, 0 is background) and overlays.

    Returns:
      How many images were segmented.

    Raises:
      UserError: no model or no images; or, after all others have been segmented,
        images that can't be read.
    """
    path = newest_version(model)
    pages, problems = find_images(source)
    names = output_names(pages)
    segment, channels = load(path)
    taken = {os.path.realpath(os.path.dirname(page.path) or ".") for page in pages}
    if os.path.realpath(output) in taken:
        raise UserError(f"--output={output}: holds the images; give another folder")
    for page, name in tqdm(
        list(zip(pages, names, strict=True)), unit="image", file=sys.stderr
    ):
        try:
            image = read_image(page, channels)
        except UserError as error:
            problems += error.problems
            continue
        batch = tf.constant(image[None], tf.float32)
        classes = segment(image=batch)["classes"][0].numpy()
        write_png(files.join(output, f"{name}_mask.png"), classes)
        write_png(files.join(output, f"{name}_overlay.png"), overlay(image, classes))
    if problems:
        raise UserError(problems)
    return len(pages)
