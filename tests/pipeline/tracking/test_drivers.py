"""A run whose process was killed does not stay RUNNING; one that is driven does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.run_lock import Driver
from pipeline.tracking.drivers import DRIVER_TAG, has_ended, this_process
from pipeline.tracking.mlflow_run import LiveTracker
from tests.helpers.mlflow_runs import row, runs


def ended_process() -> str:
    """The tag of a process of this machine that has ended."""
    code = "from pipeline.tracking.drivers import this_process; print(this_process())"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()


def changed(position: int, value: object) -> str:
    driver = json.loads(this_process())
    driver[position] = value
    return json.dumps(driver)


def test_a_process_has_ended_only_where_that_is_known() -> None:
    assert has_ended(ended_process())
    assert has_ended(changed(3, 0.0))  # its number was given to another one since
    assert not has_ended(this_process())
    assert not has_ended(changed(0, "another-machine"))
    for unknown in ("", "null", "[1]", "{}", "text"):
        assert not has_ended(unknown)


def test_a_machine_without_a_network_card_is_the_same_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_up = iter(range(1 << 40, 1 << 41))  # what Python gives there
    monkeypatch.setattr(uuid, "getnode", lambda: next(made_up))
    assert has_ended(changed(2, 2**22 + 1))  # more than a machine numbers
    assert not has_ended(this_process())
    first, second = (Driver.of_this_process() for _ in range(2))
    assert not first.is_over_for(second)
    assert replace(first, pid=2**22 + 1).is_over_for(second)


def test_the_next_run_ends_those_whose_process_was_killed(
    tmp_path: Path, with_database: Any
) -> None:
    target = with_database(tmp_path)
    client = target.client()
    drivers = {
        "killed": ended_process(),
        "driven": this_process(),
        "elsewhere": changed(0, "another-machine"),
        "finished": ended_process(),
    }
    for name, driver in drivers.items():
        LiveTracker(target, name, name, {}, {}).log_epochs([row(1)])
        (run,) = runs(target.uri, name)
        client.set_tag(run.info.run_id, DRIVER_TAG, driver)
        if name == "finished":
            client.set_terminated(run.info.run_id)
    with pytest.raises(ZeroDivisionError), LiveTracker(target, "next", "next", {}, {}):
        raise ZeroDivisionError
    found = {name: runs(target.uri, name)[0].info.status for name in (*drivers, "next")}
    assert found == {
        "killed": "KILLED", "driven": "RUNNING", "elsewhere": "RUNNING", "finished": "FINISHED",
        "next": "FAILED",
    }  # fmt: skip
    with LiveTracker(target, "killed", "killed", {}, {}) as again:
        again.log_epoch(row(2))
    (run,) = runs(target.uri, "killed")
    assert (run.info.status, json.loads(run.data.tags[DRIVER_TAG])[2]) == ("RUNNING", os.getpid())
