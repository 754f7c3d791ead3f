"""Runs of the training loop in this process, and their comparison bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.history import SPEED_COLUMNS
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics
from pipeline.training.step_log import StepLog

MakeParams = Callable[..., Params]
TERMS = {"feature": 1.0, "affinity": 0.5, "contrastive": 0.2, "interactive": 0.2, "fusion": 0.1}


class Killed(Exception):
    """Stands for the end of the process."""


def config(layout: Layout, params: Params, run: Path, **changes: Any) -> TrainConfig:
    identity = read_teacher_identity(layout.teacher)
    return TrainConfig(
        params=params.distill,
        images=layout.images,
        embeddings=layout.embeddings,
        identities={
            split: cache_identity(identity, params.embed, split) for split in ("train", "val")
        },
        run=open_storage(str(run)),
        cluster=ClusterParams(mode="inline", use_gpu=False, **changes),
    )


def trained(config: TrainConfig) -> tuple[list[EpochMetrics], dict[str, Any]]:
    """Rows that were reported, and the last checkpoint."""
    rows: list[EpochMetrics] = []
    train(config, rows.append)
    return rows, latest(config)


def latest(config: TrainConfig) -> dict[str, Any]:
    state = config.checkpoints.latest()
    assert state is not None
    return state


def steady(rows: list[EpochMetrics]) -> list[EpochMetrics]:
    """Rows without the columns of speed."""
    return [{k: v for k, v in row.items() if k not in SPEED_COLUMNS} for row in rows]


def assert_equal(one: Any, two: Any) -> None:
    """Bit for bit, in nested containers too."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for ours, theirs in zip(one, two, strict=True):
            assert_equal(ours, theirs)
    else:
        assert one == two


def die_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Ends training right after a step."""
    add = StepLog.add

    def last(log: StepLog, epoch_now: int, step_now: int, loss: float, digest: int) -> None:
        add(log, epoch_now, step_now, loss, digest)
        if (epoch_now, step_now) == (epoch, step):
            raise Killed

    monkeypatch.setattr(StepLog, "add", last)
