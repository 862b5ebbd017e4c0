"""Runs side by side: one table of scores and settings, curves over each other."""

from collections.abc import Sequence
from typing import Any

from trainer.evaluation.report import names, page
from trainer.run import workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.data_settings import class_names
from unet_tfrecords.storage import files, json_files, templates


def compare(folders: Sequence[str], split: str, output: str) -> list[dict[str, Any]]:
    """Compares runs and writes a page about it.

    Args:
      folders: work directories, evaluated or not.
      split: whose evaluations are compared.
      output: the page's path; "" writes none.

    Returns:
      A row a score: `name` and `values`, one a run, None where it has none; and `best`,
      the best of them.

    Raises:
      UserError: fewer than two runs, one named twice, or no run there.
    """
    if len(set(folders)) < 2 or len(set(folders)) < len(folders):
        raise UserError("give two or more runs, each once: compare RUN RUN ...")
    configs = [workdir.read_config(folder) for folder in folders]
    evaluations = [workdir.read_evaluation(folder, split) for folder in folders]
    rows = names.rows(evaluations, class_names(configs[0].model))
    if output:
        shown = short_names(folders)
        metrics = [workdir.read_metrics(folder) for folder in folders]
        text = templates.find(page.HERE, "compare.html").render(
            title=f"{len(folders)} runs compared",
            runs=shown,
            split=split,
            rows=rows,
            notes=_notes(evaluations, shown),
            settings=_differing([json_files.flat(c.to_dict()) for c in configs]),
            curves=page.curves(dict(zip(shown, metrics, strict=True))),
        )
        files.write_bytes(output, text.encode())
    return rows


def _notes(evaluations: Sequence[dict[str, Any]], shown: list[str]) -> list[str]:
    """Why scores may not be comparable."""
    notes = [
        f"{name} has not been evaluated"
        for name, evaluation in zip(shown, evaluations, strict=True)
        if not evaluation
    ]
    if len({tuple(sorted(e["frames"])) for e in evaluations if e}) > 1:
        notes.append("the runs were evaluated on different frames")
    if len({e.get("tta", False) for e in evaluations if e}) > 1:
        notes.append("some were averaged over symmetries and some were not")
    if len({e.get("edge_px") or 0 for e in evaluations if e}) > 1:
        notes.append("they leave out objects at other distances from the frame's edge")
    if len({e.get("frames_are") for e in evaluations if e}) > 1:
        notes.append("some frames are nearer to the training frames than others")
    return notes


def _differing(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings in which the runs differ."""
    keys = sorted({key for config in configs for key in config})
    rows = [{"name": k, "values": [c.get(k, "-") for c in configs]} for k in keys]
    return [row for row in rows if any(v != row["values"][0] for v in row["values"])]


def short_names(folders: Sequence[str]) -> list[str]:
    """As much of the paths' ends as tells them apart.

    >>> short_names(["runs/a/train", "runs/b/train"])
    ['a/train', 'b/train']
    """
    parts = [folder.rstrip("/").split("/") for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        shown = ["/".join(p[-length:]) for p in parts]
        if len(set(shown)) == len(shown):
            return shown
    return list(folders)


def table(rows: Sequence[dict[str, Any]], folders: Sequence[str]) -> str:
    """The scores for people to read; the best of each is starred."""
    shown = short_names(folders)
    width = max(len(row["name"]) for row in rows) if rows else 0
    lines = [" " * width + "".join(f"  {name:>12}" for name in shown)]
    for row in rows:
        cells = ""
        for name, value in zip(shown, row["values"], strict=True):
            text = "-" if value is None else f"{value:.4f}"
            text += "*" if value == row["best"] else " "
            cells += f"  {text:>{max(12, len(name))}}"
        lines.append(f"{row['name']:<{width}}{cells}")
    return "\n".join(lines)
