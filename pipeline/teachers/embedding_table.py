"""Unit embeddings by name, on disk: written once as a stream and looked up through a sorted index
of hashes. Memory holds 16 bytes per name and no embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import DataError

MIN_DUPLICATE_COSINE = 0.999  # of the embeddings of one input in two batches


class EmbeddingTable:
    """A table that `write_table` wrote.

    Args:
        folder: Folder of the table.
        name: Name of the table.

    Raises:
        DataError: The table is missing or damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            self.embeddings = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            index = np.load(folder / f"{name}.index.npy", allow_pickle=False)
            self._hashes, self._rows = index["hash"], index["row"]
        except (OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{folder / name}.npy: cannot be read ({error}); run `dvc repro -f teacher`"
            ) from error

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def dim(self) -> int:
        """Width of the embeddings, D."""
        return self.embeddings.shape[1]

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Row number of each name, int64 [N]; -1 where the table lacks it."""
        hashes = _hashes(names)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        return np.where(self._hashes[places] == hashes, self._rows[places], -1)


def write_table(
    folder: Path,
    name: str,
    names: Iterable[str | None],
    blocks: Iterable[np.ndarray],
    count: int,
    dim: int,
) -> int:
    """Writes `NAME.npy` and `NAME.index.npy`.

    Args:
        folder: Folder of the table.
        name: Name of the table.
        names: Names in the order of the embeddings; one may repeat with the same embedding. An
            embedding of None is never looked up.
        blocks: float16 embeddings [n, dim], in order.
        count: Number of embeddings.
        dim: Width of the embeddings.

    Returns:
        The number of rows that repeat a name.

    Raises:
        DataError: Names and embeddings differ in number, or a name has two different embeddings.
    """
    path = folder / f"{name}.npy"
    embeddings = np.lib.format.open_memmap(path, "w+", np.float16, (count, dim))
    row = 0
    for block in blocks:
        embeddings[row : row + len(block)] = block
        row += len(block)
    unnamed: list[int] = []
    hashes = _hashes(_noting_unnamed(names, unnamed))
    if not len(hashes) == row == count:
        raise DataError(f"{name}: {row} embeddings for {len(hashes)} keys; give each key one")
    order = np.argsort(hashes, kind="stable")
    order = order[~np.isin(order, unnamed)]
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    for first, second in zip(order[again - 1], order[again], strict=True):
        if (
            not float(embeddings[first].astype(np.float32) @ embeddings[second])
            >= MIN_DUPLICATE_COSINE
        ):
            raise DataError(
                f"{name}: rows {first} and {second} have one key and different embeddings; keep one"
            )
    unique = np.delete(order, again)
    index = np.empty(len(unique), dtype=[("hash", np.uint64), ("row", np.int64)])
    index["hash"], index["row"] = hashes[unique], unique
    np.save(folder / f"{name}.index.npy", index, allow_pickle=False)
    embeddings.flush()
    return len(again)


def _noting_unnamed(names: Iterable[str | None], unnamed: list[int]) -> Iterator[str]:
    for row, name in enumerate(names):
        if name is None:
            unnamed.append(row)
        yield name or ""


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
