"""The split and the key of an input, both from its name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from kdeov.errors import DataError
from pipeline.console import printable


def hash_split(name: str, seed: int, val: float, test: float) -> str:
    """The split of an input, by a hash of name and seed: adding inputs moves no other.

    Args:
        name: Name of the input.
        seed: Seed of the hash.
        val: Share of validation.
        test: Share of test.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "val" if position < test + val else "train"


def unique_keys(names: Iterable[str]) -> dict[str, str]:
    """Maps names of files to keys of letters, digits, - and _.

    The key is the name without its suffix, followed by a hash of the whole name where several names
    have one key.

    Raises:
        DataError: Two names still have one key.
    """
    keys = {name: re.sub(r"[^A-Za-z0-9_-]", "_", name.rsplit(".", 1)[0]) for name in names}
    shared = Counter(keys.values())
    owners: dict[str, str] = {}  # key to name
    for name, key in keys.items():
        if not key or shared[key] > 1:
            keys[name] = key = f"{key}-{_short_hash(name)}"
        if (other := owners.setdefault(key, name)) != name:
            raise DataError(
                f"{printable(other)} and {printable(name)} have the same key {key}; rename one"
            )
    return keys


def _short_hash(name: str) -> str:
    # long: names in other scripts than Latin often have one key
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
