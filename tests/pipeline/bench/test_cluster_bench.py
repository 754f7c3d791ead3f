"""Parts of `kdeov bench cluster`: the loop under torchrun, and a worker that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts.step_curve import read_steps
from pipeline.bench.cluster.ddp import Times, TrainingFixtures
from pipeline.bench.cluster.fault_injection import recover
from pipeline.bench.cluster.torchrun_entry import torchrun
from pipeline.bench.sizes import ClusterSizes
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

SMALL = ClusterSizes(image_size=32, micro_batch_size=8, dim=16, steps=3, epochs=3)

# a worker that writes its process id and takes a step every 50 ms
WORKER = """
import os, sys, time
from pipeline.storage.checked import checked_json
from pipeline.storage.storage import open_storage
run = open_storage(sys.argv[1])
run.write("workers/rank-1.json", checked_json({"rank": 1, "pid": os.getpid()}))
for step in range(40):
    time.sleep(0.05)
    run.write(f"steps/{step:09d}.csv", b"")
"""


@pytest.mark.slow
def test_torchrun_takes_the_same_steps_on_two_ranks_and_measures_their_time(tmp_path: Path) -> None:
    fixtures = TrainingFixtures.write(tmp_path, SMALL)
    inline, two, times = fixtures.run("inline"), fixtures.run("two"), Times()
    train(inline, lambda _: None)
    begun = time.time()
    times.measure(two, lambda config: torchrun(config, 2))
    passed = time.time() - begun
    steps, others = (read_steps(config.run / "steps") for config in (inline, two))
    assert [step.keys for step in steps] == [step.keys for step in others]
    assert {step.workers for step in steps} == {1} and {step.workers for step in others} == {2}
    assert [s.loss for s in others] == pytest.approx([s.loss for s in steps], abs=1e-5)
    assert len(times.steps) == 2 and min(times.steps) > 0  # an epoch each, without the first
    (start,) = times.starts
    assert 1 < start < passed - 3 * sum(times.steps)


def test_recovery_is_timed_from_the_kill_to_a_step_of_the_new_worker(tmp_path: Path) -> None:
    deaths: list[int] = []

    def train_again(config: TrainConfig) -> None:
        command = [sys.executable, "-c", WORKER, config.run.address]
        while len(deaths) < 3 and (status := subprocess.run(command).returncode):
            deaths.append(status)

    found = recover(TrainingFixtures(tmp_path, SMALL, {}).run("killed"), train_again, after=3)
    assert deaths == [-9]
    assert 0.05 <= found.start < 60
    assert 0.05 <= found.recovery < 60
