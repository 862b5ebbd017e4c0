"""report.html: what a run was, how it went and how good it is, in one file."""

import collections
import datetime
import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from trainer.evaluation import gallery
from trainer.evaluation.report import charts, names, papers
from trainer.run import workdir
from unet_tfrecords.dataset.data_settings import class_names
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files, json_files, templates

NAME = "report.html"
HERE = "trainer.evaluation.report"
PANELS = ("input", "truth", "probability", "result", "error")
MOST_DOTS = 3000  # in the scatter of objects


def write(folder: str) -> str | None:
    """Writes a work directory's report again from what lies there.

    Args:
      folder: the work directory.

    Returns:
      Its path; None where it could not be made, which stderr then says.
    """
    return _write(folder, lambda: html(folder))


def _write(folder: str, make: Callable[[], str]) -> str | None:
    """A report that can't be made is no reason for a training to fail."""
    path = files.join(folder, NAME)
    try:
        text = make()
    except Exception as error:
        missing = (
            "; it needs the extra `view`" if isinstance(error, ImportError) else ""
        )
        reason = f"{type(error).__name__}: {error}{missing}"
        print(f"{path}: not written ({reason})", file=sys.stderr)
        return None
    files.write_bytes(path, text.encode())
    return path


def write_cross_validation(
    folder: str, config: ml_collections.ConfigDict, result: dict[str, Any]
) -> str | None:
    """Writes the report of a cross-validation, as `write` does that of a run.

    Args:
      folder: of the cross-validation.
      config: of its trainings.
      result: their evaluation together.
    """
    classes = class_names(config.model)
    runs = {
        f"fold {fold}": workdir.read_metrics(
            files.join(folder, f"fold-{fold}", "train")
        )
        for fold in range(result["folds"])
    }

    def make() -> str:
        return templates.find(HERE, "cross_validation.html").render(
            title=f"{config.data.name or 'own images'}: {result['folds']} folds",
            config=config,
            section=_section(folder, result, config, classes),
            by_fold=names.rows(
                [{"scores": each} for each in result["by_fold"]], classes
            ),
            curves=curves(runs),
            made=_now(),
        )

    return _write(folder, make)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def html(folder: str) -> str:
    """The page.

    Raises:
      ImportError: Jinja2 or matplotlib is missing.
    """
    config, info = workdir.read_config(folder), workdir.read_info(folder)
    found = [workdir.read_evaluation(folder, split) for split in reversed(SPLITS)]
    # Those of other versions lack what is shown here.
    evaluations = [e for e in found if {"intervals", "headline"} <= e.keys()]
    classes = class_names(config.model)
    sections = [_section(folder, result, config, classes) for result in evaluations]
    digest = hashlib.sha256(files.read_bytes(files.join(folder, INFO_NAME)))
    about = workdir.read_about(folder)
    return templates.find(HERE, "report.html").render(
        title=f"{config.data.name or 'own images'}: {files.basename(folder)}",
        name=config.data.name or "own images",
        made=_now(),
        config=config,
        settings=sorted(json_files.flat(config.to_dict()).items()),
        info=info,
        frames={s: info.splits[s].num_frames for s in SPLITS},
        digest=digest.hexdigest(),
        about=about,
        sections=sections,
        curves=curves({"": workdir.read_metrics(folder)}),
        rules=workdir.read_rules_file(folder),
        panels=PANELS,
        commands=commands(folder, about, evaluations),
    )


def _section(folder: str, result: dict[str, Any], config, classes) -> dict[str, Any]:
    """What the page says of one evaluation."""
    split = result["split"]
    published = papers.UNET.get(config.data.name)
    rows = [
        {
            "name": names.title(name, classes),
            "value": result["scores"][name],
            "interval": result["intervals"].get(name),
            "paper": published.scores.get(name) if published else None,
        }
        for name in names.in_order(result["scores"])
        if result["scores"][name] is not None
    ]
    headline = result["headline"]
    found = gallery.read(folder, split)
    return {
        "result": result,
        "headline": (names.title(headline, classes), result["scores"][headline]),
        "rows": rows,
        "comparable": published.comparable if published else "",
        "pictures": [
            entry | {"kind": "best" if i < len(found) / 2 else "worst"}
            for i, entry in enumerate(found)
        ],
        "charts": [
            *filter(
                None,
                (
                    _objects_chart(folder, split),
                    _precision_recall_chart(result),
                    _frames_chart(result, classes),
                ),
            )
        ],
    }


def _objects_chart(folder: str, split: str) -> dict[str, str] | None:
    """Jaccard against size, by what became of each object."""
    rows = workdir.read_objects(folder, split)
    if not rows:
        return None
    step = -(-len(rows) // MOST_DOTS)
    counts = sorted(collections.Counter(row["fate"] for row in rows).items())
    clouds = {
        fate: [
            (int(row["size_px"]), float(row["jaccard"]))
            for row in rows[::step]
            if row["fate"] == fate
        ]
        for fate, _ in counts
    }
    said = ", ".join(f"{number} {fate}" for fate, number in counts)
    chart = charts.Chart(f"objects-{split}", "size, px", "Jaccard index", height=3.2)
    chart.axes.set_xscale("log")
    chart.axes.set_ylim(-0.03, 1.03)
    thinned = f"; one in {step} is shown" if step > 1 else ""
    return {
        "title": "Objects",
        "svg": chart.dots(clouds).svg(f"Jaccard index against size of objects: {said}"),
        "text": (
            f"Of {len(rows)} objects of the truth: {said}{thinned}. Found: one object "
            "of the result covers more than half of it. Merged: that one covers "
            "another too. Split: most of it is covered, by no one for more than half. "
            f"A row each: evaluation-{split}-objects.csv."
        ),
    }


def _precision_recall_chart(result: dict[str, Any]) -> dict[str, str] | None:
    points = [(recall, precision) for precision, recall in result["precision_recall"]]
    if not points or points[-1][0] == 0:
        return None
    name = f"precision-recall-{result['split']}"
    chart = charts.Chart(name, "recall", "precision", height=3.2)
    chart.axes.plot(*zip(*points, strict=True), color=charts.COLOURS[0])
    chart.axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return {
        "title": "Foreground pixels at every threshold",
        "svg": chart.svg("Precision against recall of foreground pixels"),
        "text": "Before instances are made: where this is good and objects are not, "
        "look at how cells are parted.",
    }


def _frames_chart(result: dict[str, Any], classes) -> dict[str, str] | None:
    """The headline score of each frame, to see where a video or stack goes wrong."""
    name = result["headline"]
    values = [scores.get(name) for scores in result["frames"].values()]
    if name == "op_csb":  # most frames have no gold truth
        name = "seg_all"
        values = [scores.get(name) for scores in result["frames"].values()]
    points = [(i, v) for i, v in enumerate(values) if v is not None]
    if len(points) < 2:
        return None
    shown = names.title(name, classes)
    chart = charts.Chart(f"frames-{result['split']}", "frame, in order", shown)
    return {
        "title": "Frame by frame",
        "svg": chart.dots({"": points}).svg(f"{shown} of each frame"),
        "text": "",
    }


def curves(runs: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, str]]:
    """Loss, validation scores and learning rate of one run or of several.

    Args:
      runs: lines of metrics.jsonl by the run's name.
    """

    wanted = (
        ("loss", "Training loss", "loss"),
        ("val_mean_iou", "Validation mean IoU", "mean IoU"),
        ("val_pixel_error", "Validation pixel error", "pixel error"),
        ("val_cross_entropy", "Validation cross-entropy", "cross-entropy"),
        ("learning_rate", "Learning rate", "learning rate"),
        ("images_per_s", "Speed", "images/s"),
    )
    drawn = []
    for key, title, axis in wanted:
        found = {
            run: [(m["step"], m[key]) for m in lines if m.get(key) is not None]
            for run, lines in runs.items()
        }
        if any(found.values()):
            chart = charts.Chart(f"curve-{key}", "step", axis)
            chart.lines(found, smooth=key == "loss")
            drawn.append({"title": title, "svg": chart.svg(f"{title} by step")})
    return drawn


def commands(
    folder: str, about: dict[str, Any], evaluations: Sequence[dict[str, Any]]
) -> list[str]:
    """How to make the run again, as far as it is known."""
    given = about.get("command")
    if not given:
        return []
    settings = [word for word in given if word.startswith("--config")]
    data = [word[len("--data=") :] for word in given if word.startswith("--data=")]
    evaluate = ["evaluate", f"--workdir={folder}", "--input=DIR"]
    tta = ["--tta"] if any(e["tta"] for e in evaluations) else []
    made = [
        ["preprocess", *settings, "--input=DIR", f"--output={''.join(data[:1])}"],
        ["train", *given],
        [*evaluate, "--tune", *tta],
        [*evaluate, *tta],
    ]
    return [shlex.join(["./launch.sh", *line]) for line in made]
