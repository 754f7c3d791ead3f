"""What follows from the name of an input: its split, and its key in the shards."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from kdeov.errors import KdeovError
from pipeline.console import printable


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

    Raises:
        KdeovError: A name is another's key with its hash.
    """
    keys = {name: re.sub(r"[^A-Za-z0-9_-]", "_", name.rsplit(".", 1)[0]) for name in names}
    shared = Counter(keys.values())
    made: dict[str, str] = {}  # to their names
    for name, key in keys.items():
        if not key or shared[key] > 1:
            keys[name] = key = f"{key}-{_short_hash(name)}"
        if (other := made.setdefault(key, name)) != name:
            raise KdeovError(
                f"{printable(other)} and {printable(name)} would both have the key {key}; "
                "rename one"
            )
    return keys


def _short_hash(name: str) -> str:
    # names that are not in Latin script share their keys in great numbers
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
