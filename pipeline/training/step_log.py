"""What every step of a run was made of: its loss, and a digest of its keys.

The steps between two checkpoints are one file, named by the first of them. Steps that are taken
again, because the run died before their checkpoint, replace what the file said: the same losses and
the same keys, on however many ranks.
"""

from __future__ import annotations

import csv
import hashlib
import io
from typing import NamedTuple

import torch

from kdeov.training.distributed import sum_over_ranks, world
from pipeline.storage.storage import Storage


class Step(NamedTuple):
    """Attributes: epoch and step, counted from 0; the loss of the joined batch; the digest of its
    keys in their order; how many ranks took it.
    """

    epoch: int
    step: int
    loss: float
    keys: str
    workers: int


class StepLog:
    """Steps since the last checkpoint, on one rank.

    Args:
        folder: Where the files go; rank 0 writes them.
        device: That ranks exchange numbers on.
    """

    def __init__(self, folder: Storage, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self._steps: list[tuple[int, int]] = []
        self._losses: list[float] = []
        self._digests: list[int] = []

    def add(self, epoch: int, step: int, loss: float, digest: int) -> None:
        """Remembers a step: this rank's loss, and `keys_digest` of its keys."""
        self._steps.append((epoch, step))
        self._losses.append(loss)
        self._digests.append(digest)

    def write(self, first: int) -> None:
        """Writes the steps that were added since the last time; all ranks call this.

        Args:
            first: Number of the first of them within the run.

        Raises:
            KdeovError: The storage cannot be written.
        """
        if not self._steps:
            return
        rank, workers = world()
        losses = torch.tensor(self._losses, dtype=torch.float64, device=self.device)
        digests = torch.tensor(self._digests, dtype=torch.int64, device=self.device)
        means = (sum_over_ranks(losses) / workers).tolist()
        joined = sum_over_ranks(digests).tolist()
        if rank == 0:
            text = io.StringIO()
            rows = zip(self._steps, means, joined, strict=True)
            csv.writer(text, lineterminator="\n").writerows(
                (*step, repr(loss), f"{digest % 2**64:016x}", workers)
                for step, loss, digest in rows
            )
            self.folder.write(f"{first:09d}.csv", text.getvalue().encode())
        self._steps, self._losses, self._digests = [], [], []


def keys_digest(keys: list[str], first: int = 0) -> int:
    """A digest of keys at their places in the joined batch: those of its parts add up (in 64 bits)
    to that of the whole.

    Args:
        keys: Of one part, in order.
        first: Place of the first of them.
    """
    total = 0
    for place, key in enumerate(keys, first):
        digest = hashlib.sha256(f"{place}/{key}".encode()).digest()
        total += int.from_bytes(digest[:8], "little", signed=True)
    return (total + 2**63) % 2**64 - 2**63


def read_steps(folder: Storage) -> list[Step]:
    """All steps of a run that are in its checkpoints, in order."""
    rows = [
        row
        for name in folder.names()
        for row in csv.reader(io.StringIO(folder.read(name).decode()))
    ]
    steps = {
        (int(epoch), int(step)): Step(int(epoch), int(step), float(loss), keys, int(workers))
        for epoch, step, loss, keys, workers in rows
    }
    return [steps[place] for place in sorted(steps)]
