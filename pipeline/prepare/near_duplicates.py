"""Images of one split that nearly occur in another, by their difference hashes.

Eight bytes an image are held and a table of at most 64 MB, and the time is linear in the images
of the second split, whatever the images look like.
"""

from __future__ import annotations

import numpy as np

from pipeline.prepare.images import GRID

BITS = 64
DISTANCE = 2  # bits in which the hashes of near duplicates differ at most
FOLDED_BITS = 26
AT_ONCE = 256  # images


def difference_hashes(grids: bytes | bytearray) -> np.ndarray:
    """64 bits for each image that compression and scaling hardly change: whether it gets brighter
    from each cell to the one on its right.

    Args:
        grids: Of N images (see `pipeline.prepare.images.grey_grid`).

    Returns:
        uint64 [N].
    """
    width, height = GRID
    cells = np.frombuffer(grids, np.float32).reshape(-1, height, width)
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(-1, BITS)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_duplicates(hashes: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Images that are among others but for compression and size.

    Args:
        hashes: Of the images, uint64 [N] (see `difference_hashes`).
        others: Of the others, uint64 [M].

    Returns:
        Number of each such image, in order, and of one of the others that it resembles.
    """
    if not len(others):
        return []
    order = np.argsort(others, kind="stable")
    known, flips = others[order], _flips()
    # a table of folded hashes dismisses nearly all of what would be searched for; it is as large as
    # keeps it nearly empty
    bits = min(FOLDED_BITS, len(known).bit_length() + 6)
    table = np.zeros(1 << bits, bool)
    table[_folded(known, bits)] = True
    folded_flips = _folded(flips, bits)
    found: list[tuple[int, int]] = []
    for start in range(0, len(hashes), AT_ONCE):
        some = hashes[start : start + AT_ONCE]
        # what is folded by exclusive or may be flipped afterwards
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
    """So many bits of each hash, int64, to which all of its bits contribute."""
    folded = hashes.copy()
    for shift in range(bits, BITS, bits):
        folded ^= hashes >> np.uint64(shift)
    return (folded & np.uint64((1 << bits) - 1)).astype(np.int64)


def _flips() -> np.ndarray:
    """All words of at most DISTANCE set bits, the nearest first, uint64."""
    single = np.uint64(1) << np.arange(BITS, dtype=np.uint64)
    words = [np.zeros(1, np.uint64)]
    for _ in range(DISTANCE):
        words.append(np.unique((words[-1][:, None] ^ single).ravel()))
    flat = np.concatenate(words)
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)]
