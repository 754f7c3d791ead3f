"""Two ranks take the steps of one: NCCL on two GPUs, gloo on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.artifacts.step_curve import read_steps
from pipeline.storage.storage import open_storage
from pipeline.training.loop import train
from tests.gpu.conftest import Cache
from tests.gpu.rank_entry import LEARNING_RATE
from tests.helpers import ROOT

TIMEOUT_S = 600


def torchrun(device: str, shards: Path, run: Path, ranks: int) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(ranks), "-m", "tests.gpu.rank_entry",
            device, str(shards), str(run),
        ],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        check=True, timeout=TIMEOUT_S,
    )  # fmt: skip


def test_two_ranks_take_the_steps_of_one(device: str, cache: Cache, tmp_path: Path) -> None:
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("one GPU: NCCL takes one a rank")
    (cache.folder / "identities.json").write_text(json.dumps(cache.identities), encoding="utf-8")
    torchrun(device, cache.folder, tmp_path / "two", ranks=2)
    train(cache.config(tmp_path / "one", device, learning_rate=LEARNING_RATE), lambda _: None)
    one, two = (read_steps(open_storage(str(tmp_path / name)) / "steps") for name in ("one", "two"))
    assert len(one) == 6 and {step.workers for step in two} == {2}
    for step, other in zip(two, one, strict=True):
        assert (step.epoch, step.step, step.keys) == (other.epoch, other.step, other.keys)
        assert step.loss == pytest.approx(other.loss, rel=2e-2 if device == "cuda" else 1e-5)
