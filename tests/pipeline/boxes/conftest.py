"""A checkout with a student, on whose trunk boxes are trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.dataset import Dataset
from pipeline.boxes.config import BoxConfig
from pipeline.boxes.train_boxes import box_config
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.storage import open_storage
from pipeline.training.distill import distill

MakeConfig = Callable[..., BoxConfig]


@pytest.fixture(scope="session")
def with_student(
    built: Layout, tmp_path_factory: pytest.TempPathFactory, make_params: Callable[..., Params]
) -> Layout:
    """For reading alone."""
    layout = Layout(tmp_path_factory.mktemp("student") / "checkout")
    shutil.copytree(built.root, layout.root, symlinks=True)
    distill(make_params(distill={"epochs": 1}), layout)
    return layout


@pytest.fixture
def checkout(with_student: Layout, tmp_path: Path) -> Layout:
    """A copy of it."""
    layout = Layout(tmp_path / "checkout")
    shutil.copytree(with_student.root, layout.root, symlinks=True)
    return layout


@pytest.fixture
def make_config(with_student: Layout, make_params: Callable[..., Params]) -> MakeConfig:
    """`make_config(run, epochs=3)`: the config of a run in a folder, with params changed."""

    def make(run: Path, checkpoint_every: int = 500, **changes: object) -> BoxConfig:
        params = make_params(train_boxes=changes)
        config = box_config(params, with_student, Dataset.read(with_student.images))
        cluster = config.cluster.model_copy(update={"checkpoint_every": checkpoint_every})
        return replace(config, run=open_storage(str(run)), cluster=cluster)

    return make
