"""A tiny data set with a tiny teacher and its cache, built once, and how tests say what they
expect.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from kdeov.weights.clip import import_clip
from kdeov.weights.state_dict import write_tensors
from pipeline.config.params import Params, load_params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import embed
from pipeline.evaluation.detection import detection
from pipeline.evaluation.efficiency import efficiency
from pipeline.evaluation.linear_probe import linear_probe
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.export.export import export
from pipeline.prepare.prepare import prepare
from pipeline.storage.storage import Storage, open_storage
from pipeline.teachers.make_teacher import make_teacher
from pipeline.training.distill import distill
from tests.helpers import ROOT
from tests.helpers.box_heads import save_untrained_head
from tests.helpers.mlflow_databases import database, with_database
from tests.helpers.teachers import clip_file

__all__ = ["database", "with_database"]

TINY: dict[str, Any] = {
    "prepare": {
        "path": str(ROOT / "pipeline" / "prepare" / "sources" / "scenes.yaml"),
        "samples_per_shard": 10,
        "scenes": {"train": 24, "val": 12, "test": 12},
    },
    "embed": {"views": 3, "regions": {"count": 0}},
    "distill": {
        "fusion_epochs": 1,
        "losses": {"fusion": 0.1, "regions": 0.0, "mosaic": 0.0},
        "image_size": 32,
        "epochs": 2,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "num_streams": 4,
        "shuffle_buffer": 16,
    },
    "train_boxes": {
        "image_size": 64,
        "epochs": 2,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "num_streams": 4,
        "shuffle_buffer": 16,
    },
    "cluster": {"mode": "inline", "use_gpu": False, "embed_batch": 16},
}

torch.set_num_threads(1)  # two threads gain nothing on images this small


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: _merge(base[key], value) if isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


@pytest.fixture(scope="session")
def make_params(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Params]:
    """The repository's params, tiny; `make_params(distill={"ema_decay": 0.5})` changes some."""

    def make(**sections: dict[str, Any]) -> Params:
        values = _merge(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")), TINY)
        path = tmp_path_factory.mktemp("params") / "params.yaml"
        path.write_text(yaml.safe_dump(_merge(values, sections)), encoding="utf-8")
        return load_params(path)

    return make


@pytest.fixture(scope="session")
def params(make_params: Callable[..., Params]) -> Params:
    return make_params()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that nobody has trained, yet one that tells images apart, as a weight file."""
    torch.manual_seed(0)
    clip = import_clip()
    model = clip.model.CLIP(
        embed_dim=32, image_resolution=64, vision_layers=(1, 1, 1, 1), vision_width=8,
        vision_patch_size=None, context_length=28, vocab_size=49408, transformer_width=64,
        transformer_heads=1, transformer_layers=1,
    )  # fmt: skip
    blotches = F.interpolate(torch.randn(64, 3, 4, 4), 64, mode="bicubic")
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            module.momentum = None  # statistics of the next batch, not an average with nothing
    with torch.no_grad():
        model.visual.train()(blotches)
        model.visual.attnpool.c_proj.bias -= model.visual.eval()(blotches).mean(dim=0)
    clip.model.convert_weights(model)
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    write_tensors(path, model.state_dict())
    return path


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    make_params: Callable[..., Params],
    params: Params,
    weights: Path,
) -> Layout:
    """A checkout in which `prepare`, `teacher` and `embed` have run. For reading alone."""
    layout = Layout(tmp_path_factory.mktemp("built"))
    shutil.copy(ROOT / "dvc.yaml", layout.root)
    for package in ("kdeov", "pipeline", "stages"):
        (layout.root / package).symlink_to(ROOT / package)
    prepare(params, layout)
    named = make_params(teacher=clip_file(weights))
    make_teacher(named, layout)
    embed(params, layout)
    return layout


@pytest.fixture(scope="session")
def trained(
    built: Layout, tmp_path_factory: pytest.TempPathFactory, make_params: Callable[..., Params]
) -> tuple[Layout, Params]:
    """A checkout in which every stage but the report has run, and its params. For reading alone."""
    layout = Layout(tmp_path_factory.mktemp("trained") / "checkout")
    shutil.copytree(built.root, layout.root, symlinks=True)
    quick = {"threads": 1, "batch_size": 1, "repeats": 1, "reference_size": 32}
    params = make_params(efficiency=quick)
    distill(params, layout)
    save_untrained_head(params, layout)
    for stage in (export, zero_shot, linear_probe, retrieval, detection, efficiency):
        stage(params, layout)
    return layout, params


@pytest.fixture
def copied(trained: tuple[Layout, Params], tmp_path: Path) -> tuple[Layout, Params]:
    """A copy of `trained` that a test may damage."""
    shutil.copytree(trained[0].root, tmp_path / "checkout", symlinks=True)
    return Layout(tmp_path / "checkout"), trained[1]


@pytest.fixture
def checkout(built: Layout, tmp_path: Path) -> Layout:
    """A copy of `built` that a test may damage."""
    shutil.copytree(built.root, tmp_path / "checkout", symlinks=True)
    return Layout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Python in a process of its own, `without` some variables of the environment."""

    def run(
        *arguments: str, cwd: Path = ROOT, without: Collection[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in without}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            encoding="utf-8",
        )  # fmt: skip

    return run


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the pipeline logs, also after `setup_logging` has taken its loggers away from pytest."""
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    caplog.set_level(logging.INFO, logger="pipeline")
    return caplog


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A new storage of either kind."""
    if request.param == "folder":
        return open_storage(str(tmp_path / "storage"))
    return open_storage(f"{request.getfixturevalue('bucket')}/some/prefix")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Loggers without handlers, and afterwards as they were, since commands set up their own."""
    kept = [
        (logger := logging.getLogger(name), dict(vars(logger))) for name in ("kdeov", "pipeline")
    ]
    for logger, _ in kept:
        logger.handlers = []
        logger.setLevel(logging.NOTSET)
    yield
    for logger, values in kept:
        for name in ("handlers", "propagate"):
            setattr(logger, name, values[name])
        logger.setLevel(values["level"])
