"""What follows from the name of an input: its split, and its key in the shards."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable


def hash_split(name: str, seed: int, val: float, test: float) -> str:
    """The split of a name, by a hash of name and seed: adding others moves none.

    Args:
        name: Of the input.
        seed: Picks the splits.
        val: Share of validation.
        test: Share of test.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "val" if position < test + val else "train"


def unique_keys(names: Iterable[str]) -> dict[str, str]:
    """Names of files to keys of letters, digits, - and _: the name without its suffix, and a hash
    of the whole name behind it where names would share a key.
    """
    keys = {name: re.sub(r"[^A-Za-z0-9_-]", "_", name.rsplit(".", 1)[0]) for name in names}
    shared = Counter(keys.values())
    return {
        name: key if key and shared[key] == 1 else f"{key}-{_short_hash(name)}"
        for name, key in keys.items()
    }


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
