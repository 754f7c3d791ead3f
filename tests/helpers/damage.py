"""Damage to files."""

from __future__ import annotations

import random


def flips(data: bytes, count: int, seed: int) -> list[bytes]:
    """Copies of a file's bytes, each with one bit flipped at a random place."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        found.append(bytes(damaged))
    return found
