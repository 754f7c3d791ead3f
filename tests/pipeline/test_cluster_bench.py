"""What `kdeov bench cluster` is made of: steps seen from outside, the loop under torchrun, and a
worker that is killed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.bench.ddp import train_config
from pipeline.bench.killing import recover
from pipeline.bench.sizes import ClusterSizes, cluster_params
from pipeline.bench.step_watch import StepWatch
from pipeline.bench.torchrun_entry import torchrun
from pipeline.step_log import StepLog, read_steps
from pipeline.train_loop import train
from pipeline.trainer import TrainConfig

SMALL = ClusterSizes(image_size=32, micro_batch=8, dim=16, steps=5)

# a worker of two ranks that takes a step every 50 ms
WORKER = """
import sys, time
from pathlib import Path
from pipeline.step_log import StepLog
with StepLog(Path(sys.argv[1]), 0) as one, StepLog(Path(sys.argv[1]), 1) as two:
    for step in range(int(sys.argv[2])):
        time.sleep(0.05)
        one.write(0, step, 1.0, ["a"])
        two.write(0, step, 1.0, ["b"])
"""


@pytest.mark.slow
def test_torchrun_takes_the_same_steps_on_two_ranks(tmp_path: Path) -> None:
    config = train_config(tmp_path, SMALL)
    inline, two = config("inline"), config("two")
    with StepWatch(inline.run, 1) as watch:
        train(inline, lambda _: None)
    assert watch.taken == [SMALL.steps] and sorted(watch.ends[0]) == watch.ends[0]
    torchrun(two, 2)
    assert [len(read_steps(two.run / "steps", rank)) for rank in range(2)] == [SMALL.steps] * 2
    rows = [(c.checkpoints.latest() or {})["history"][0] for c in (inline, two)]
    assert [row["workers"] for row in rows] == [1, 2]
    assert rows[0]["train_total"] == pytest.approx(rows[1]["train_total"], abs=1e-5)


def test_a_watch_waits_for_all_ranks_and_no_longer_than_asked(tmp_path: Path) -> None:
    with StepWatch(tmp_path, 2) as watch, StepLog(tmp_path / "steps", 0) as log:
        log.write(0, 0, 1.0, ["a"])
        assert not watch.wait([0, 0], seconds=0.2)
        assert watch.taken == [1, 0]
        with StepLog(tmp_path / "steps", 1) as other:
            other.write(0, 0, 1.0, ["b"])
            assert watch.wait([0, 0], seconds=10)


def test_recovery_is_timed_from_the_kill_to_a_step_of_the_new_worker(tmp_path: Path) -> None:
    config = TrainConfig(cluster_params(SMALL), tmp_path, tmp_path, {}, run=tmp_path)
    deaths: list[int] = []

    def train_again(config: TrainConfig) -> None:
        command = [sys.executable, "-c", WORKER, str(config.run / "steps"), "40", "RayTrainWorker"]
        while status := subprocess.run(command).returncode:
            deaths.append(status)
            time.sleep(1)  # until the loss is noticed

    found = recover(config, train_again, after=3)
    assert deaths == [-9]
    assert 0.05 <= found.start < found.recovery
    assert 1 < found.recovery < 60
    assert threading.active_count() == 1
