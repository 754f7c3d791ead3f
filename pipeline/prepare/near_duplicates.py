"""Near duplicates between splits, by difference hashes (dHash).

Memory is eight bytes an image and a table of at most 64 MB; time is linear in the number of images,
whatever they show.
"""

from __future__ import annotations

import numpy as np

from pipeline.prepare.images import GRID

BITS = 64
MAX_DISTANCE = 2  # bits in which the hashes of near duplicates differ
MAX_FOLDED_BITS = 26  # a table of 64 MB
BATCH = 256  # images


def difference_hashes(grids: bytes | bytearray) -> np.ndarray:
    """Difference hashes of 64 bits, each set where a cell is darker than the one on its right.

    Compression and scaling change few bits.

    Args:
        grids: Grids of N images, one after the other (see `pipeline.prepare.images.gray_grid`).

    Returns:
        uint64 [N].
    """
    width, height = GRID
    cells = np.frombuffer(grids, np.float32).reshape(-1, height, width)
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(-1, BITS)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_duplicates(hashes: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of images whose hashes differ in at most `MAX_DISTANCE` bits.

    Args:
        hashes: Hashes of N images, uint64 (see `difference_hashes`).
        others: Hashes of M other images, uint64.

    Returns:
        (number of an image, number of the most similar of the others), in the order of the images.
    """
    if not len(others):
        return []
    order = np.argsort(others, kind="stable")
    known, flips = others[order], _flips()
    # a table of folded hashes, large enough to be nearly empty, rules out most candidates
    bits = min(MAX_FOLDED_BITS, len(known).bit_length() + 6)
    table = np.zeros(1 << bits, bool)
    table[_folded(known, bits)] = True
    folded_flips = _folded(flips, bits)
    found: list[tuple[int, int]] = []
    for start in range(0, len(hashes), BATCH):
        some = hashes[start : start + BATCH]
        # folding is linear (exclusive or), so bits may be flipped after it
        maybe = table[_folded(some, bits)[:, None] ^ folded_flips]
        numbers, which = np.nonzero(maybe)  # of each image, the nearest first
        wanted = some[numbers] ^ flips[which]
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        hit = np.flatnonzero(known[place] == wanted)
        numbers, first = np.unique(numbers[hit], return_index=True)
        nearest = order[place[hit[first]]]
        found += zip((start + numbers).tolist(), nearest.tolist(), strict=True)
    return found


def _folded(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Folds all bits of each hash into `bits` bits by exclusive or, int64."""
    folded = hashes.copy()
    for shift in range(bits, BITS, bits):
        folded ^= hashes >> np.uint64(shift)
    return (folded & np.uint64((1 << bits) - 1)).astype(np.int64)


def _flips() -> np.ndarray:
    """All words of at most MAX_DISTANCE set bits, fewest first, uint64."""
    single = np.uint64(1) << np.arange(BITS, dtype=np.uint64)
    words = [np.zeros(1, np.uint64)]
    for _ in range(MAX_DISTANCE):
        words.append(np.unique((words[-1][:, None] ^ single).ravel()))
    flat = np.concatenate(words)
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)]
