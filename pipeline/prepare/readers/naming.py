"""The name of an input, and the split and key that follow from it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.texts import file_name
from pipeline.console import printable

UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def name_within(folder: Path, name: str) -> str:
    """The path of a file within a folder as a person compares it (see `file_name`): an absolute
    path that leads there becomes relative, and `..` is resolved; others stay as they are.
    """
    name = file_name(name)
    climbs = ".." in name.split("/")
    if "\0" in name or not (climbs or name.startswith("/")):
        return name
    directory, _, last = name.rpartition("/")
    where = f"{folder.absolute()}/{directory}" if not name.startswith("/") else directory
    for root in (file_name(f"{folder.absolute()}"), file_name(_real(f"{folder}"))):
        for path in ([] if climbs else [where]) + [file_name(_real(where))]:
            if f"{path}/".startswith(f"{root}/"):
                return f"{path}/{last}"[len(root) + 1 :]
    return name


@lru_cache(maxsize=1024)
def _real(path: str) -> str:
    return os.path.realpath(path)


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
    keys = {name: UNSAFE.sub("_", name.rsplit(".", 1)[0]) for name in names}
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


def safe_key(name: str) -> str:
    """A name as a key: itself, or its letters, digits, - and _ followed by a hash of the name."""
    return f"{UNSAFE.sub('_', name)}-{_short_hash(name)}" if UNSAFE.search(name) else name


def _short_hash(name: str) -> str:
    # long: names in other scripts than Latin often have one key
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
