"""Pictures of one split that nearly occur in another, by their difference hashes.

Eight bytes a picture are held, and the time is linear in the pictures of the second split, whatever
the pictures look like.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

BITS = 64
DISTANCE = 2  # bits in which the hashes of near duplicates differ at most


def near_duplicates(hashes: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Pictures that are among others but for compression and size.

    Args:
        hashes: Of the pictures, uint64 [N] (see `pipeline.pictures.difference_hash`).
        others: Of the others, uint64 [M].

    Returns:
        Number of each such picture, in order, and of one of the others that it resembles.
    """
    order = np.argsort(others, kind="stable")
    known = others[order]
    found = np.full(len(hashes), -1)
    left = np.arange(len(hashes))  # numbers of the pictures that resemble nothing so far
    for flipped in _flips():
        if not len(left) or not len(known):
            break
        wanted = hashes[left] ^ flipped
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        hit = known[place] == wanted
        found[left[hit]] = order[place[hit]]
        left = left[~hit]
    return [(int(number), int(found[number])) for number in np.flatnonzero(found >= 0)]


def _flips() -> list[np.uint64]:
    """All words of at most DISTANCE set bits, the nearest first."""
    return [
        np.uint64(sum(1 << bit for bit in bits))
        for count in range(DISTANCE + 1)
        for bits in combinations(range(BITS), count)
    ]
