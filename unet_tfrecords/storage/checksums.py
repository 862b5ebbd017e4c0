"""SHA256SUMS: what the files of a folder must be, as `sha256sum --check` reads it."""

from collections.abc import Iterable

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files

NAME = "SHA256SUMS"


def write(folder: str, names: Iterable[str], inside: str = NAME) -> None:
    """Notes files as they are.

    Args:
      folder: where they lie.
      names: of the files, relative to it.
      inside: path of the list, relative to it.
    """
    lines = [f"{files.sha256_of(files.join(folder, n))}  {n}\n" for n in sorted(names)]
    files.write_bytes(files.join(folder, inside), "".join(lines).encode())


def check(folder: str, names: Iterable[str], inside: str = NAME) -> None:
    """Compares files with what was noted; where there is no note, nothing is wrong.

    Args:
      folder, inside: as `write` was given them.
      names: of the files to be looked at.

    Raises:
      UserError: files that are missing or not as they were, a line each.
    """
    path = files.join(folder, inside)
    try:
        text = files.read_bytes(path).decode(errors="replace")
    except FileNotFoundError:
        return  # an older version's
    lines = (line.partition("  ") for line in text.splitlines())
    noted = {name: digest for digest, _, name in lines}
    problems = []
    for name in names:
        place = files.join(folder, name)
        if name not in noted:
            problems.append(
                f"{path}: damaged, it has no line of {name}; get it again, or remove it"
            )
        elif not files.exists(place):
            problems.append(f"{place}: missing")
        elif files.sha256_of(place) != noted[name]:
            problems.append(
                f"{place}: not as it was written; get it again, or remove {path} if it "
                "was changed on purpose"
            )
    if problems:
        raise UserError(problems)


def fits(folder: str, names: Iterable[str], inside: str = NAME) -> bool:
    """Whether there is a note, and files are as it says."""
    try:
        check(folder, names, inside)
    except UserError:
        return False
    return files.exists(files.join(folder, inside))
