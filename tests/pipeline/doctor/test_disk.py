"""Disk space and shared memory are compared with the needs of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor import disk
from pipeline.training.checkpoints import MAX_CHECKPOINTS
from tests.helpers.doctor import GB, node, verdicts

pytestmark = pytest.mark.usefixtures("loggers")


def test_free_space_is_compared_with_the_bytes_of_a_run(
    built: Layout, make_params: Callable[..., Params]
) -> None:
    loaders = make_params(
        cluster={"mode": "local", "dataloader_workers": 2}, distill={"ema_decay": 0.9}
    )
    wanted = disk.needs(loaders, built, built.runs, 32, {})
    plain = disk.needs(make_params(), built, built.runs, 32, {})
    assert wanted.disk[built.runs] > plain.disk[built.runs] > disk.MIN_FREE_BYTES
    assert plain.batches == 0
    assert wanted.batches == 3 * 8 * (3 * 32 * 32 + 2 * 4 * 32)
    enough = node(disk_free={built.runs: wanted.disk[built.runs]})
    scarce = node("b", disk_free={built.runs: wanted.disk[built.runs] - 1})
    assert verdicts(disk.disks([enough], wanted)) == {"disk": "ok"}
    (check,) = disk.disks([enough, scarce], wanted)
    assert check.verdict == "error" and f"{built.runs} on b has" in check.finding


@pytest.mark.parametrize(
    ("free", "batches", "mode", "verdict"),
    [
        (8 * GB, 2 * GB, "local", "ok"),
        (GB, 2 * GB, "local", "error"),
        (64_000_000, 0, "local", "warning"),
        (64_000_000, 0, "inline", "ok"),
    ],
)
def test_shared_memory_must_hold_the_batches_of_loaders(
    free: int, batches: int, mode: Any, verdict: str
) -> None:
    nodes = [node("a"), node("b", shared_memory=free)]
    cluster = ClusterParams(mode=mode, num_workers=4)
    (check,) = disk.shared_memory(nodes, disk.Needs({}, batches), cluster)
    assert check.verdict == verdict
    if verdict != "ok":
        assert check.finding.startswith("b has ") and "--shm-size" in check.fix


@pytest.mark.slow
def test_checkpoints_are_as_large_as_estimated(
    trained: tuple[Layout, Params],
) -> None:
    layout, params = trained
    files = list(layout.runs.rglob("step-*.pt"))
    size = sum(path.stat().st_size for path in files) / len(files)
    kept = disk.checkpoint_bytes(params, dim=32) / (MAX_CHECKPOINTS + 1)
    assert size == pytest.approx(kept, rel=0.1)
