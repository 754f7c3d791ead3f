"""Checkpoints are whole or absent, and the newest two are kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.storage.storage import open_storage
from pipeline.training.checkpoints import CheckpointStore


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"w": torch.full((3,), float(step))}, "history": [{"a": 1.0}]}


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in folder(store).iterdir())


def folder(store: CheckpointStore) -> Path:
    assert store.storage.folder is not None
    return store.storage.folder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(open_storage(str(tmp_path / "run" / "checkpoints")))
    for step in range(1, 5):
        store.save(step, state(step))
    return store


def test_a_run_without_checkpoints_starts_at_the_beginning(tmp_path: Path) -> None:
    store = CheckpointStore(open_storage(str(tmp_path / "new")))
    store.clean()
    assert store.latest() is None


def test_the_newest_two_are_kept_and_the_newest_is_read(store: CheckpointStore) -> None:
    assert names(store) == ["step-000000003.pt", "step-000000004.pt"]
    latest = store.latest()
    assert latest is not None and (latest["step"], latest["history"]) == (4, [{"a": 1.0}])
    assert torch.equal(latest["model"]["w"], torch.full((3,), 4.0))


def test_what_a_killed_process_left_half_written_is_cleaned_and_never_read(
    store: CheckpointStore,
) -> None:
    (folder(store) / "step-000000005.pt.123.partial").write_bytes(b"half")
    latest = store.latest()
    assert latest is not None and latest["step"] == 4
    store.clean()
    assert names(store) == ["step-000000003.pt", "step-000000004.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(store: CheckpointStore) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        store.save(5, {"model": lambda: None})
    assert names(store) == ["step-000000003.pt", "step-000000004.pt"]


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_checkpoint_is_reported_in_one_line(
    tmp_path: Path, run_python: Any
) -> None:
    script = """
import resource, signal, sys
import torch
import kdeov.models.student  # brings ultralytics along, as training does
from kdeov.errors import KdeovError
from pipeline.training.checkpoints import CheckpointStore
from pipeline.storage.storage import open_storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    CheckpointStore(open_storage(sys.argv[1])).save(1, {"model": {"w": torch.zeros(1_000_000)}})
except KdeovError as error:
    print(error)
"""
    result = run_python("-c", script, str(tmp_path))
    assert result.stdout.startswith(f"{tmp_path / 'step-000000001.pt'}:")
    assert result.stdout.count("\n") == 1 and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no checkpoint at all"),
        lambda path: torch.save(Runs(path.parent / "ran"), path),
    ],
    ids=["cut", "cut short", "empty", "words", "code"],
)
def test_a_damaged_checkpoint_is_reported_in_one_line_with_the_fix(
    store: CheckpointStore, complains: Any, damage: Callable[[Path], Any]
) -> None:
    path = folder(store) / "step-000000004.pt"
    damage(path)
    with complains(path, "dvc repro"):
        store.latest()
    assert not (folder(store) / "ran").exists()
    path.unlink()
    latest = store.latest()
    assert latest is not None and latest["step"] == 3
