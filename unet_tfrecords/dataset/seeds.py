"""Seeds from identity: the same on every machine, in any order."""

import hashlib


def identity_seed(identity: str, base_seed: int) -> int:
    """A 64-bit seed from a readable identity and the config's seed.

    >>> identity_seed("HeLa/01/t012/a03", 1) != identity_seed("HeLa/01/t012/a04", 1)
    True
    """
    text = f"{base_seed}:{identity}"  # which may be a path that is no text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little")
