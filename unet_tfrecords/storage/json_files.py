"""JSON in files: equal content is equal bytes, and what was altered is noticed."""

import hashlib
import json
from typing import Any

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files

OWN_DIGEST = "own_digest"  # of all else in an object


def as_json(content: Any) -> bytes:
    """Readable JSON with sorted keys, so that equal content is equal bytes."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def parse(text: bytes) -> Any:
    """What a JSON text says.

    Raises:
      ValueError: it is none, whatever is wrong with it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def as_read(content: Any) -> Any:
    """What would be read of it: tuples are lists then.

    >>> as_read({"a": (1, 2)})
    {'a': [1, 2]}
    """
    return json.loads(json.dumps(content))


def read(path: str, *, cure: str, kind: type = dict) -> Any:
    """What a file says, compared with its own digest where it has one.

    Args:
      path: the file.
      cure: what to do if it is broken, for people.
      kind: what it must hold: dict or list.

    Raises:
      UserError: it is broken, or not as it was written.
      FileNotFoundError: there is none.
    """
    try:
        content = parse(files.read_bytes(path))
        if not isinstance(content, kind):
            raise ValueError(f"not a JSON {'object' if kind is dict else 'array'}")
    except ValueError as error:
        raise UserError(f"{path}: broken ({error}); {cure}") from None
    try:
        check_sealed(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return content


def write(path: str, content: Any) -> None:
    """Writes a file that `read` reads, whole or not at all."""
    files.write_bytes(path, as_json(content))


def fingerprint(content: Any) -> str:
    """A short digest of anything JSON can hold; the same content, the same digest.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """An object with its own digest; times are not in it, since they count nowhere.

    >>> sealed({"a": 1})["own_digest"] == sealed({"times": 2, "a": 1})["own_digest"]
    True
    """
    return content | {OWN_DIGEST: own_digest(content)}


def own_digest(content: dict[str, Any]) -> str:
    """The digest that `sealed` notes in an object."""
    ignored = (OWN_DIGEST, "times")
    return fingerprint({k: v for k, v in content.items() if k not in ignored})


def check_sealed(content: Any) -> None:
    """Compares an object with its digest, if it has one: older versions wrote none.

    Raises:
      ValueError: it is another.
    """
    if OWN_DIGEST in content and content[OWN_DIGEST] != own_digest(content):
        raise ValueError(
            f"not as it was written; to keep an edit, take {OWN_DIGEST} out"
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as one level.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[str]:
    """Where two JSON trees differ, one line each.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1 there, 2 here']
    >>> differences({}, {"a": {}})
    ['a: None there, {} here']
    """
    there, here = flat(old, prefix), flat(new, prefix)
    return [
        f"{name}: {there.get(name)} there, {here.get(name)} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
