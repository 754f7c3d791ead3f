"""Devices: what is asked for and not there is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.runtime.device import (
    cpu_threads,
    pick_device,
    tuned_convolutions,
    use_local_gpu,
)
from tests.helpers import ROOT

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@no_gpu
def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu(complains: Any) -> None:
    assert pick_device() == pick_device(False) == "cpu"
    with complains("cluster.use_gpu"):
        pick_device(True)


def test_more_processes_than_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch, complains: Any
) -> None:
    rank = torch.cuda.device_count()
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with complains(f"LOCAL_RANK is {rank}"):
        use_local_gpu()


def test_settings_are_as_before_afterwards() -> None:
    threads, tuned = torch.get_num_threads(), torch.backends.cudnn.benchmark
    with cpu_threads(threads + 1), tuned_convolutions():
        assert torch.get_num_threads() == threads + 1
        assert torch.backends.cudnn.benchmark
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.benchmark == tuned


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_named_before_the_first_step(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-compiler"
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.runtime.device import *; check_compiler('cpu')"],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "CXX": str(missing), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "ConfigError" in last
    assert "cluster.compile" in last and "compiler" in last
