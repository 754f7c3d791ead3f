"""Checkpoints of a run: each is whole or absent, and the newest two stay."""

from __future__ import annotations

import io
import pickle
import re
import time
from typing import Any

import torch

from kdeov.errors import DataError, StorageError, first_line
from pipeline.storage.checked import read_checked, write_checked
from pipeline.storage.storage import Storage

NAME = re.compile(r"^step-(\d{9})\.pt$")
MAX_CHECKPOINTS = 2
FIX = "delete it and run `dvc repro` again"
VISIBILITY_TIMEOUT_S = 90.0  # a network folder may show another machine's file that late


class CheckpointStore:
    """Files `step-000000300.pt`, with the state after 300 steps of the run, written by
    `write_checked` around `torch.save`.

    Args:
        storage: A folder that every worker of the run can reach.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps and deletes the oldest.

        Raises:
            StorageError: The storage cannot be written.
        """
        buffer = io.BytesIO()  # torch hides the disk's error when it writes the file itself
        torch.save(state, buffer)
        write_checked(self.storage, f"step-{step:09d}.pt", buffer.getbuffer())
        for name in self._names()[:-MAX_CHECKPOINTS]:
            self.storage.delete(name)

    @property
    def newest(self) -> str | None:
        """The address of the newest state, or None where there is none."""
        name = self.newest_name()
        return None if name is None else self.storage.where(name)

    def newest_name(self) -> str | None:
        """The name of the newest state, or None where there is none."""
        return next(reversed(self._names()), None)

    def latest(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest state, or None where there is none.

        Raises:
            KdeovError: It is damaged, or the storage cannot be read.
        """
        name = self.newest_name()
        return None if name is None else self.read(name, device)

    def read(self, name: str, device: str = "cpu") -> dict[str, Any]:
        """The state of a name. Waits for a file that another machine has just written.

        Raises:
            DataError: The checkpoint is damaged, or another step's or run's.
            StorageError: The file does not appear, or the storage cannot be read.
        """
        where, end = self.storage.where(name), time.monotonic() + VISIBILITY_TIMEOUT_S
        while True:
            try:
                data = read_checked(self.storage, name, FIX)
                return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            except FileNotFoundError as error:
                if time.monotonic() > end:
                    raise StorageError(
                        f"{where}: not seen from this machine; give cluster.storage a folder that "
                        "all machines share"
                    ) from error
                time.sleep(1)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                raise DataError(
                    f"{where}: damaged checkpoint ({first_line(error)}); {FIX}"
                ) from error

    def clean(self) -> None:
        """Removes the partial files of killed processes."""
        self.storage.clean()

    def _names(self) -> list[str]:
        return [name for name in self.storage.names() if NAME.match(name)]
