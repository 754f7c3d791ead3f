"""Workers that die: counted, placed on their machines, and told apart from mistakes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from kdeov.errors import KdeovError, StorageError
from pipeline.runtime.ray_train import FailureTracker, worker_place
from pipeline.storage.checked import checked_json
from pipeline.storage.storage import Storage, open_storage

LOST = RuntimeError("Connection closed by peer")  # what the others say of it


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    """A run whose two workers have said where they are."""
    run = open_storage(str(tmp_path))
    for rank, machine in enumerate(("node-a (10.0.0.1)", "node-b (10.0.0.2)")):
        run.write(f"workers/rank-{rank}.json", checked_json({"rank": rank, "machine": machine}))
    return run


def death(**details: Any) -> RayActorError:
    return RayActorError(error_msg="The actor died: killed by a signal.", **details)


def test_each_death_is_counted_and_placed_and_its_victims_are_not(
    run: Storage, log: pytest.LogCaptureFixture
) -> None:
    FailureTracker(run, limit=3).count({0: LOST, 1: death()})
    (line,) = log.messages
    assert "death 1 of 3" in line and "worker 1 on node-b (10.0.0.2)" in line
    assert "node-a" not in line


def test_a_machine_that_loses_workers_again_and_again_is_named(
    run: Storage, log: pytest.LogCaptureFixture
) -> None:
    deaths = FailureTracker(run, limit=3)
    for rank in (0, 1, 1):
        deaths.count({rank: death()})
    assert "look at it" not in log.messages[1]
    assert "node-b (10.0.0.2) lost 2: look at it, or take it out" in log.messages[2]


def test_too_many_deaths_end_training_with_one_line(run: Storage, complains: Any) -> None:
    deaths = FailureTracker(run, limit=1)
    deaths.count({1: death()})
    with complains(
        "2 deaths", "cluster.max_failures = 1", "worker 1 on node-b", "`dvc repro` goes on"
    ):
        deaths.count({1: death()})


def test_a_mistake_is_told_at_once(run: Storage, complains: Any) -> None:
    with complains("the loss is nan"):
        FailureTracker(run, limit=3).count({0: KdeovError("the loss is nan"), 1: LOST})


def test_machines_that_are_taken_away_are_no_deaths(
    run: Storage, log: pytest.LogCaptureFixture
) -> None:
    deaths = FailureTracker(run, limit=0)
    for _ in range(5):
        deaths.count({0: LOST, 1: death(preempted=True)})
    assert deaths.seen == 0 and "was taken away" in log.messages[-1]


def test_a_worker_that_never_said_where_it_is_is_told_so(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    with log.at_level(logging.WARNING):
        FailureTracker(open_storage(str(tmp_path)), limit=3).count({0: death()})
    assert "worker 0 on an unknown machine" in log.messages[0]


def test_a_storage_that_cannot_be_read_is_no_unknown_machine(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        worker_place(open_storage(str(tmp_path / "file")), 0)
