"""Stage `distill`: names the run, trains the student, and writes the student and its history."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, DataError
from kdeov.models.model import KDEOVModel
from kdeov.models.student import VisualStudent
from kdeov.training.losses import NEEDS_TEXT
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.identity import cache_identity, read_teacher_identity, shown_classes
from pipeline.artifacts.run import (
    CONFIG,
    CURVE,
    METRICS,
    RunRecord,
    runs_storage,
    write_history,
)
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import code_digest, fingerprint
from pipeline.data.verify import verify_cache
from pipeline.runtime.device import pick_device
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.checked import checked_json
from pipeline.storage.files import sha256_file, write_text, writing_folder
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_teacher
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.tags import run_tags
from pipeline.tracking.target import live_target
from pipeline.tracking.watch import RunWatcher
from pipeline.training.config import SINGLE_TERMS, TrainConfig
from pipeline.training.history import history_csv
from pipeline.training.launch import launch
from pipeline.training.region_cosines import region_metrics
from pipeline.training.step_curve import StepCurve
from pipeline.training.trainer import check_workers

logger = logging.getLogger(__name__)

VERIFY_SAMPLES_PER_SPLIT = 32  # samples that are embedded again before training, to compare


def distill(params: Params, paths: Layout) -> None:
    """Trains and writes `out/student/`, `metrics/distill.json` and `metrics/history.csv`.

    Raises:
        KdeovError: Params, data and teacher do not fit together, or training stopped.
    """
    identity = read_teacher_identity(paths.teacher)
    config = train_config(params, paths)
    runs = runs_storage(params, paths)
    runs.require_writable()
    check_training(config)
    _verify(config, paths)
    record = _name(params, paths, identity)
    config = replace(config, run=runs / record.fingerprint)
    logger.info("run %s, fingerprint %s", record.name, record.fingerprint)
    tracker = LiveTracker(
        live_target(params, paths),
        record.fingerprint, record.name, record.params, run_tags(params, paths, record),
    )  # fmt: skip
    steps = config.plan(config.shards("train").manifest.sizes, epoch=0).steps
    watcher = RunWatcher(
        tracker.target,
        record.fingerprint,
        StepCurve(config.run / "steps", steps),
        # with other machines at work, the load of this one says little
        params.tracking.system_metrics and config.cluster.mode != "cluster",
    )
    with tracker, watcher, RunLock(config.run):
        launch(config, record.name, tracker)
    _write(config, record, paths)


def train_config(params: Params, paths: Layout) -> TrainConfig:
    """The configuration that params ask for; its run folder is still the one of all runs.

    Raises:
        KdeovError: There is no teacher.
    """
    identity = read_teacher_identity(paths.teacher)
    classes = shown_classes(params.embed, paths.images)
    return TrainConfig(
        params=params.distill,
        images=paths.images,
        embeddings=paths.embeddings,
        storage=params.data.storage,
        identities={
            split: cache_identity(identity, params.embed, split, classes)
            for split in ("train", "val")
        },
        run=open_storage(str(paths.runs)),
        cluster=params.cluster,
    )


def _verify(config: TrainConfig, paths: Layout) -> None:
    """Compares a sample of the cache with the live teacher, and frees its device for training."""
    # on a cluster, the driver may be on a machine without the GPUs of the workers
    teacher = load_teacher(paths.teacher, pick_device("auto" if config.cluster.use_gpu else False))
    for split in ("train", "val"):
        verify_cache(config.shards(split), teacher, VERIFY_SAMPLES_PER_SPLIT)
    del teacher
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_training(config: TrainConfig) -> None:
    """Checks that params, data and workers fit together, before any worker starts.

    Raises:
        KdeovError: They do not.
    """
    params = config.params
    weights = params.losses.model_dump()
    if not any(value for name, value in weights.items() if name not in SINGLE_TERMS):
        raise ConfigError("distill.losses: every weight is 0; give feature a positive one")
    for split in ("val", "train"):
        shards = config.shards(split)
        if not len(shards):
            raise DataError(
                f"{shards.images.path}: the {split} split is empty; run `dvc repro prepare`"
            )
    if not next(iter(shards)).captions:
        for name in (*NEEDS_TEXT, "fusion"):
            if weights[name]:
                raise ConfigError(
                    f"distill.losses.{name} is {weights[name]:g}, and these images have no caption "
                    "embeddings; set it to 0"
                )
    config.plan(shards.manifest.sizes, epoch=0)
    check_workers(config, shards, config.cluster.most_processes)
    VisualStudent(params.backbone, params.fusion, shards.dim, params.backbone_weights)


def _name(params: Params, paths: Layout, identity: dict[str, Any]) -> RunRecord:
    """The record of the run, whose fingerprint follows from params, inputs and code."""
    weights = params.distill.backbone_weights
    sections = {"prepare", "teacher", "embed", "distill"}
    used = _without_folders(params.model_dump(mode="json", include=sections, exclude_none=True))
    ingredients = {
        "manifests": {
            f"{folder.name}/{split}": sha256_file(folder / split / "manifest.json")
            for folder in (paths.images, paths.embeddings)
            for split in ("train", "val")
        },
        "teacher": identity["weights_sha256"],
        "backbone_weights": sha256_file(weights) if weights else None,
        "code": code_digest(paths.root, "distill"),
    }
    value = fingerprint(distill=used["distill"], **ingredients)
    return RunRecord(
        fingerprint=value,
        name=f"{params.distill.backbone.removeprefix('timm:')}-{params.distill.fusion}-{value[:4]}",
        dataset=Dataset.read(paths.images).name,
        teacher=identity["name"],
        params=used,
        ingredients=ingredients,
    )


def _without_folders(values: Any) -> Any:
    """Absolute paths reduced to file names, since a fingerprint must not depend on folders."""
    if isinstance(values, dict):
        return {key: _without_folders(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_without_folders(value) for value in values]
    return Path(values).name if isinstance(values, str) and Path(values).is_absolute() else values


def _write(config: TrainConfig, record: RunRecord, paths: Layout) -> None:
    """Writes the student, its history for DVC to plot, and its metrics."""
    state = config.checkpoints.latest()
    if state is None or state["epoch"] != config.params.epochs:
        raise DataError(
            f"{config.run.address}: training ended without its last checkpoint; run `dvc repro` "
            "again"
        )
    teacher = load_teacher(paths.teacher)
    student = VisualStudent(config.params.backbone, config.params.fusion, teacher.embed_dim)
    student.load_state_dict(state["student"])
    model = KDEOVModel.from_parts(
        student, teacher.text, ImageTransform(size=config.params.image_size), teacher.name
    )
    history = state["history"]
    last = history[-1]
    metrics = {
        "fingerprint": record.fingerprint,
        "epochs": last["epoch"],
        "train_loss": last["train_total"],
        "val_loss": last["val_loss"],
        "val_cosine": last["val_cosine"],
        "samples": config.shards("train").manifest.samples,
        "repeated_samples_per_epoch": last["repeated_samples"],
        **region_metrics(last),
    }
    texts = {METRICS: checked_json(metrics).decode(), CURVE: history_csv(history)}
    sha256 = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    with writing_folder(paths.student) as folder:
        model.save(folder)
        replace(record, sha256={CONFIG: sha256_file(folder / CONFIG), **sha256}).write(folder)
    write_history(config.run, record.fingerprint, history)
    for name, text in texts.items():
        write_text(paths.metrics / name, text)
