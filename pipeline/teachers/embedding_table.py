"""Unit vectors by name, on disk: written once as a stream, looked up through a sorted index of
hashes, so that memory holds 16 bytes a name and no vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import KdeovError

SAME = 0.999  # cosine of vectors that one input may have got in two batches


class EmbeddingTable:
    """A table that `write_table` wrote.

    Args:
        folder: Where.
        name: Of the table.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            self.vectors = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            index = np.load(folder / f"{name}.index.npy", allow_pickle=False)
            self._hashes, self._rows = index["hash"], index["row"]
        except (OSError, ValueError, IndexError) as error:
            raise KdeovError(
                f"{folder / name}.npy: cannot be read ({error}); run `dvc repro -f teacher`"
            ) from error

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.vectors.shape[1]

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """The row of each name; -1 where there is none."""
        hashes = _hashes(names)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        return np.where(self._hashes[places] == hashes, self._rows[places], -1)


def write_table(
    folder: Path,
    name: str,
    names: Iterable[str],
    blocks: Iterable[np.ndarray],
    count: int,
    dim: int,
) -> int:
    """Writes `NAME.npy` and `NAME.index.npy`.

    Args:
        folder: Where.
        name: Of the table.
        names: Of the vectors, in order; a name may come again with the same vector.
        blocks: The vectors, in order, as float16 arrays [n, dim].
        count: How many there are.
        dim: Their width.

    Returns:
        How many rows repeat a name.

    Raises:
        KdeovError: Names and vectors differ in number, or a name has two different vectors.
    """
    path = folder / f"{name}.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float16, (count, dim))
    place = 0
    for block in blocks:
        vectors[place : place + len(block)] = block
        place += len(block)
    hashes = _hashes(names)
    if not len(hashes) == place == count:
        raise KdeovError(f"{name}: {place} vectors for {len(hashes)} keys; give each key one")
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    for first, second in zip(order[again - 1], order[again], strict=True):
        if not float(vectors[first].astype(np.float32) @ vectors[second]) >= SAME:
            raise KdeovError(
                f"{name}: rows {first} and {second} have one key and different vectors; keep one"
            )
    kept = np.delete(order, again)
    index = np.empty(len(kept), dtype=[("hash", np.uint64), ("row", np.int64)])
    index["hash"], index["row"] = hashes[kept], kept
    np.save(folder / f"{name}.index.npy", index, allow_pickle=False)
    vectors.flush()
    return len(again)


def _hashes(names: Iterable[str]) -> np.ndarray:
    return np.fromiter(
        (
            int.from_bytes(
                hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(),
                "little",
            )
            for name in names
        ),
        dtype=np.uint64,
    )
