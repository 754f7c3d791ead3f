"""What every step of a run was made of: its loss, and a digest of its keys.

A step that was taken twice, because a worker died after it and before the next checkpoint, stands
there twice, with the same loss and the same keys.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import disk_errors


class Step(NamedTuple):
    """Attributes: epoch and step, counted from 0; this rank's loss; the digest of its keys."""

    epoch: int
    step: int
    loss: float
    keys: str


class StepLog:
    """A growing table of one rank, to be used as a context.

    Args:
        folder: Of the tables of all ranks.
        rank: Of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"rank-{rank}.csv"

    def __enter__(self) -> StepLog:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # a line is written whole or, where the process is killed, not at all
            self._file: Any = open(self.path, "a", buffering=1, newline="")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, epoch: int, step: int, loss: float, keys: list[str]) -> None:
        """Adds a step.

        Raises:
            KdeovError: The disk is full.
        """
        with disk_errors(self.path):
            self._file.write(f"{epoch},{step},{loss!r},{keys_digest(keys)}\n")


def keys_digest(keys: list[str]) -> str:
    """Sixteen hexadecimal digits of the keys in their order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def read_steps(folder: Path, rank: int) -> list[Step]:
    """All steps that a rank has taken, in the order in which it took them."""
    with open(folder / f"rank-{rank}.csv", newline="") as file:
        return [
            Step(int(epoch), int(step), float(loss), keys)
            for epoch, step, loss, keys in csv.reader(file)
        ]
