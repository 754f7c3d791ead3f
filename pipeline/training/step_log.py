"""A log of every step of a run: its loss, and a digest of its keys.

The steps between two checkpoints are one file, named after the first of them; below the line
with its digest it is CSV: epoch, step, loss, keys, workers. Steps that are taken
again, because the run died before their checkpoint, overwrite the file with the same losses and
keys, on any number of ranks.
"""

from __future__ import annotations

import csv
import hashlib
import io
from typing import NamedTuple

import torch

from kdeov.training.distributed import get_rank, get_world_size, mean_over_ranks, sum_over_ranks
from pipeline.storage.checked import read_checked, write_checked
from pipeline.storage.storage import Storage

FIX = "delete it: no number depends on it"


class Step(NamedTuple):
    """One step.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Number of the step within the epoch, from 0.
        loss: Loss of the global batch.
        keys: Digest of its keys in their order, 16 hex digits.
        workers: Ranks that shared the step.
    """

    epoch: int
    step: int
    loss: float
    keys: str
    workers: int


class StepLog:
    """Steps since the last checkpoint, on one rank.

    Args:
        folder: Folder of the files, which rank 0 writes.
        device: Device of the tensors that ranks exchange.
    """

    def __init__(self, folder: Storage, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self._steps: list[tuple[int, int]] = []
        self._losses: list[float] = []
        self._digests: list[int] = []

    def add(self, epoch: int, step: int, loss: float, digest: int) -> None:
        """Adds a step: this rank's loss, and the `keys_digest` of its keys."""
        self._steps.append((epoch, step))
        self._losses.append(loss)
        self._digests.append(digest)

    def write(self, first: int) -> None:
        """Writes the steps that were added since the last call; a collective call.

        Args:
            first: Number of the first of them within the run.

        Raises:
            StorageError: The storage cannot be written.
        """
        if not self._steps:
            return
        workers = get_world_size()
        losses = torch.tensor(self._losses, dtype=torch.float64, device=self.device)
        digests = torch.tensor(self._digests, dtype=torch.int64, device=self.device)
        means = mean_over_ranks(losses).tolist()
        totals = sum_over_ranks(digests).tolist()
        if get_rank() == 0:
            text = io.StringIO()
            rows = zip(self._steps, means, totals, strict=True)
            csv.writer(text, lineterminator="\n").writerows(
                (*step, repr(loss), f"{digest % 2**64:016x}", workers)
                for step, loss, digest in rows
            )
            write_checked(self.folder, f"{first:09d}.csv", text.getvalue().encode())
        self._steps, self._losses, self._digests = [], [], []


def keys_digest(keys: list[str], first: int = 0) -> int:
    """A digest of keys at their places in the global batch. The digests of the ranks' parts add up,
    modulo 2**64, to the digest of the whole.

    Args:
        keys: The keys of one part, in order.
        first: Place of the first key in the global batch.
    """
    total = 0
    for place, key in enumerate(keys, first):
        digest = hashlib.sha256(f"{place}/{key}".encode()).digest()
        total += int.from_bytes(digest[:8], "little", signed=True)
    return (total + 2**63) % 2**64 - 2**63


def read_steps(folder: Storage) -> list[Step]:
    """All steps of a run up to its newest checkpoint, in order.

    Raises:
        DataError: A file is damaged or edited, or another run's.
    """
    steps = {
        (step.epoch, step.step): step for name in folder.names() for step in read_file(folder, name)
    }
    return [steps[place] for place in sorted(steps)]


def read_file(folder: Storage, name: str) -> list[Step]:
    """The steps of one file.

    Raises:
        DataError: It is damaged or edited, or another run's.
    """
    text = bytes(read_checked(folder, name, FIX)).decode()
    return [
        Step(int(epoch), int(step), float(loss), keys, int(workers))
        for epoch, step, loss, keys, workers in csv.reader(io.StringIO(text))
    ]
