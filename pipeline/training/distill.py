"""Stage `distill`: names the run, trains the student where params say, and writes it with its
history.
"""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdeov.data.transform import ImageTransform
from kdeov.errors import KdeovError
from kdeov.models.model import KDEOVModel
from kdeov.models.student import VisualStudent
from kdeov.training.losses import NEEDS_TEXT
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.artifacts.run import HISTORY, RunRecord, runs_storage
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import code_digest, fingerprint
from pipeline.data.epoch_plan import check_sharing
from pipeline.data.verify import verify_cache
from pipeline.runtime.device import pick_device
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.files import json_text, sha256_file, write_json, write_text, writing_folder
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_teacher
from pipeline.tracking.mlflow_run import LiveTracker, run_tags
from pipeline.tracking.target import live_target
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch

logger = logging.getLogger(__name__)

MACHINE = ("images_per_s", "data_wait", "workers")  # columns that say how fast, not how well
VERIFIED = 32  # entries of each split that are embedded again before training


def distill(params: Params, layout: Layout) -> None:
    """Trains and writes `out/student/`, `metrics/distill.json` and `metrics/history.csv`.

    Raises:
        KdeovError: Params, data and teacher do not fit together, or training stopped.
    """
    identity = read_teacher_identity(layout.teacher)
    config = train_config(params, layout)
    runs = runs_storage(params, layout)
    runs.require_writable()
    check_training(config, params.cluster.max_workers if params.cluster.mode != "inline" else 1)
    _verify(config, layout)
    record = _name(params, layout, identity)
    config = replace(config, run=runs / record.fingerprint)
    logger.info("run %s, fingerprint %s", record.name, record.fingerprint)
    tracker = LiveTracker(
        live_target(params, layout),
        record.fingerprint, record.name, record.params, run_tags(layout, record),
    )  # fmt: skip
    with tracker, RunLock(config.run):
        launch(config, params.cluster, record.name, tracker)
    _write(config, record, layout)


def train_config(params: Params, layout: Layout) -> TrainConfig:
    """What will be trained on what; the folder of the run is not known yet.

    Raises:
        KdeovError: There is no teacher.
    """
    identity = read_teacher_identity(layout.teacher)
    return TrainConfig(
        params=params.distill,
        images=layout.images,
        embeddings=layout.embeddings,
        storage=params.data.storage,
        identities={
            split: cache_identity(identity, params.embed, split) for split in ("train", "val")
        },
        run=open_storage(str(layout.runs)),
        use_gpu=params.cluster.use_gpu,
        dataloader_workers=params.cluster.dataloader_workers,
        checkpoint_every=params.cluster.checkpoint_every,
        compile=params.cluster.compile,
    )


def _verify(config: TrainConfig, layout: Layout) -> None:
    """A sample of the cache against the live teacher, which leaves its device before training."""
    # on a cluster, the driver may be on a machine without the GPUs of the workers
    teacher = load_teacher(layout.teacher, pick_device("auto" if config.use_gpu else False))
    for split in ("train", "val"):
        verify_cache(config.shards(split), teacher, VERIFIED)
    del teacher
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_training(config: TrainConfig, workers: int) -> None:
    """What can be known to be wrong before any worker starts.

    Raises:
        KdeovError: Params, data and workers do not fit together.
    """
    params = config.params
    weights = params.losses.model_dump()
    if not any(value for name, value in weights.items() if name != "fusion"):
        raise KdeovError("distill.losses: every weight is 0; give feature a positive one")
    for split in ("val", "train"):
        shards = config.shards(split)
        if not len(shards):
            raise KdeovError(
                f"{shards.images.path}: the {split} split is empty; run `dvc repro prepare`"
            )
    if not next(iter(shards)).captions:
        for name in (*NEEDS_TEXT, "fusion"):
            if weights[name]:
                raise KdeovError(
                    f"distill.losses.{name} is {weights[name]:g}, and these images have no "
                    "captions with vectors; set it to 0"
                )
    config.plan(shards.manifest.sizes, epoch=0)
    check_sharing(
        params.global_batch_size, params.num_streams, params.micro_batch_size, workers, len(shards)
    )
    VisualStudent(params.backbone, params.fusion, shards.dim, params.backbone_weights)


def _name(params: Params, layout: Layout, identity: dict[str, Any]) -> RunRecord:
    """The record of the run that these params and files make; its fingerprint names the run."""
    weights = params.distill.backbone_weights
    sections = {"prepare", "teacher", "embed", "distill"}
    used = _without_folders(params.model_dump(mode="json", include=sections, exclude_none=True))
    ingredients = {
        "manifests": {
            f"{folder.name}/{split}": sha256_file(folder / split / "manifest.json")
            for folder in (layout.images, layout.embeddings)
            for split in ("train", "val")
        },
        "teacher": identity["weights_sha256"],
        "backbone_weights": sha256_file(weights) if weights else None,
        "code": code_digest(layout.root, "distill"),
    }
    value = fingerprint(distill=used["distill"], **ingredients)
    return RunRecord(
        fingerprint=value,
        name=f"{params.distill.backbone.removeprefix('timm:')}-{params.distill.fusion}-{value[:4]}",
        dataset=Dataset.read(layout.images).name,
        teacher=identity["name"],
        params=used,
        ingredients=ingredients,
    )


def _without_folders(values: Any) -> Any:
    """Files by their names alone: where they lie is no part of a run."""
    if isinstance(values, dict):
        return {key: _without_folders(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_without_folders(value) for value in values]
    return Path(values).name if isinstance(values, str) and Path(values).is_absolute() else values


def _write(config: TrainConfig, record: RunRecord, layout: Layout) -> None:
    """The student as people load it, and its history as DVC plots it."""
    state = config.checkpoints.latest()
    if state is None or state["epoch"] != config.params.epochs:
        raise KdeovError(
            f"{config.run.address}: training ended without its last checkpoint; run `dvc repro` "
            "again"
        )
    teacher = load_teacher(layout.teacher)
    student = VisualStudent(config.params.backbone, config.params.fusion, teacher.embed_dim)
    student.load_state_dict(state["student"])
    model = KDEOVModel.from_parts(
        student, teacher.text, ImageTransform(size=config.params.image_size), teacher.name
    )
    with writing_folder(layout.student) as folder:
        model.save(folder)
        record.write(folder)
    history = state["history"]
    config.run.write(HISTORY, json_text(history).encode())
    write_text(layout.metrics / "history.csv", history_csv(history))
    last = history[-1]
    write_json(
        layout.metrics / "distill.json",
        {
            "fingerprint": record.fingerprint,
            "epochs": last["epoch"],
            "train_loss": last["train_total"],
            "val_loss": last["val_loss"],
            "val_cosine": last["val_cosine"],
            "samples": config.shards("train").manifest.samples,
            "repeated_samples_per_epoch": last["repeated_samples"],
        },
    )


def history_csv(history: list[dict[str, float]]) -> str:
    """Rows of history that depend on the run alone: what the machine did is left to MLflow."""
    names = [name for name in history[0] if name not in MACHINE]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
