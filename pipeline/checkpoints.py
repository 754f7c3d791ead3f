"""Checkpoints of a run: whole or absent, the newest two kept."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from kdeov.errors import KdeovError
from pipeline.files import remove_partial, writing

NAME = re.compile(r"^step-(\d{9})\.pt$")
KEPT = 2


class CheckpointStore:
    """A folder of checkpoints, `step-000000300.pt` holding the state after 300 steps of the run.

    Args:
        folder: Reached by every worker of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps and deletes the oldest."""
        with writing(self.folder / f"step-{step:09d}.pt") as file:
            buffer = io.BytesIO()  # straight to the file, torch hides what the disk says
            torch.save(state, buffer)
            file.write(buffer.getbuffer())
        for _, path in self._found()[:-KEPT]:
            path.unlink(missing_ok=True)

    @property
    def newest(self) -> Path | None:
        """The file of the newest state, or None where there is none."""
        found = self._found()
        return found[-1][1] if found else None

    def latest(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest state, or None where there is none.

        Raises:
            KdeovError: The file is damaged.
        """
        path = self.newest
        if path is None:
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise KdeovError(
                f"{path}: damaged checkpoint ({reason}); delete it and run `dvc repro` again"
            ) from error

    def clean(self) -> None:
        """Removes what a killed process left half-written."""
        if self.folder.is_dir():
            remove_partial(self.folder)

    def _found(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        matches = ((NAME.match(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)
