"""Checkpoints of a run: whole or absent, the newest two kept."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import torch

from kdeov.errors import KdeovError
from pipeline.storage import Storage

NAME = re.compile(r"^step-(\d{9})\.pt$")
KEPT = 2


class CheckpointStore:
    """Checkpoints, `step-000000300.pt` holding the state after 300 steps of the run.

    Args:
        storage: Reached by every worker of the run.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps and deletes the oldest.

        Raises:
            KdeovError: The storage cannot be written.
        """
        buffer = io.BytesIO()  # straight to a file, torch hides what the disk says
        torch.save(state, buffer)
        self.storage.write(f"step-{step:09d}.pt", buffer.getvalue())
        for name in self._names()[:-KEPT]:
            self.storage.delete(name)

    @property
    def newest(self) -> str | None:
        """The address of the newest state, or None where there is none."""
        names = self._names()
        return self.storage.where(names[-1]) if names else None

    def latest(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest state, or None where there is none.

        Raises:
            KdeovError: It is damaged, or the storage cannot be read.
        """
        names = self._names()
        if not names:
            return None
        try:
            data = io.BytesIO(self.storage.read(names[-1]))
            return torch.load(data, map_location=device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise KdeovError(
                f"{self.newest}: damaged checkpoint ({reason}); delete it and run `dvc repro` again"
            ) from error

    def clean(self) -> None:
        """Removes what a killed process left half-written."""
        self.storage.clean()

    def _names(self) -> list[str]:
        return [name for name in self.storage.names() if NAME.match(name)]
