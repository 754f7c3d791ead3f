"""Costs of one image, one shard and one checkpoint, which the scaling plan multiplies. Figures have
the names of its inputs.
"""

from __future__ import annotations

import io
import logging
import os
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kdeov.training.rng import get_rng_state
from pipeline.artifacts.manifest import Manifest
from pipeline.bench.data.planning import PER_SHARD, write_manifest
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import WEB_IMAGE, photographs, write_embeddings, write_images
from pipeline.bench.sizes import ClusterSizes, captions_csv_params, cluster_params
from pipeline.config.execution_params import ClusterParams, DataParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.stage_params import LossParams
from pipeline.data.loader import EpochStream, epoch_loader
from pipeline.prepare.prepare import prepare
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer

VIEWS, CAPTIONS = 4, 1
HALF_FLOAT_BYTES = 2  # bytes of a half float
MANIFEST_SHARDS = 1000  # entries of the manifest whose size is measured


def unit_figures(folder: Path, sizes: ClusterSizes) -> list[Figure]:
    """Measures `loader_rate`, and the bytes of stored data.

    The checkpoint is the largest that params can ask for: with fusion and averaged weights.

    Args:
        folder: Folder of shards and the run.
        sizes: Sizes of the measurements.
    """
    trainer = _trainer(folder, sizes)
    rate = _loader_rate(trainer)
    trainer.save()
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()
    images, embeddings = (
        _bytes(manifest) / sizes.num_images
        for manifest in (trainer.train_shards.manifest, trainer.train_shards.cache)
    )
    jpeg = sum(map(len, islice(photographs(size=WEB_IMAGE), sizes.num_images))) / sizes.num_images
    write_manifest(folder / "many", MANIFEST_SHARDS * PER_SHARD)
    parameters = sum(p.numel() for p in trainer.state.model.parameters() if p.requires_grad)
    pixels = "{}x{}".format(*WEB_IMAGE)
    values: dict[str, tuple[float, str]] = {
        "prepare_rate": (
            _prepare_rate(folder / "prepare", sizes.num_images),
            f"images/s of {pixels} that a core prepares",
        ),
        "loader_rate": (rate, f"images/s of {pixels} that a core reads and renders"),
        "overhead_bytes": (images - jpeg, "of an image's caption and tar headers"),
        "sample_bytes": (
            embeddings - (VIEWS + CAPTIONS) * sizes.dim * HALF_FLOAT_BYTES,
            "of an image in a teacher shard, beside its embeddings",
        ),
        "shard_bytes": (
            _size(folder / "many") / MANIFEST_SHARDS,
            "of one in a manifest",
        ),
        "parameters": (parameters, "that are trained, with fusion"),
        "checkpoint_bytes": (checkpoint.stat().st_size, "of one rank"),
        "rank_bytes": ((_states_bytes(33) - _states_bytes(1)) / 32, "more of it for each rank"),
    }
    return [Figure(name, value, None, note) for name, (value, note) in values.items()]


def _trainer(folder: Path, sizes: ClusterSizes) -> Trainer:
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.num_images), ("val", 1)):
        write_images(images / split, photographs(size=WEB_IMAGE), count, CAPTIONS)
        identities[split] = write_embeddings(
            images / split, embeddings / split, VIEWS, CAPTIONS, sizes.dim, WEB_IMAGE
        )
    losses = LossParams(
        feature=1,
        affinity=0,
        relation=0,
        contrastive=0.1,
        interactive=0,
        fusion=0.1,
        regions=0,
        mosaic=0,
    )
    params = cluster_params(sizes).model_copy(update={"ema_decay": 0.999, "losses": losses})
    run = open_storage(str(folder / "run"))
    return Trainer(
        TrainConfig(
            params=params,
            images=images,
            embeddings=embeddings,
            identities=identities,
            run=run,
            cluster=ClusterParams(mode="inline", use_gpu=False),
        )
    )


def _prepare_rate(folder: Path, count: int) -> float:
    """Images a second of CPU time, from a folder and a table into shards."""
    params = captions_csv_params(folder)
    (folder / "images").mkdir(parents=True)
    names = [f"{number:05d}.jpg" for number in range(count)]
    for name, jpeg in zip(names, photographs(size=WEB_IMAGE), strict=False):
        (folder / "images" / name).write_bytes(jpeg)
    rows = "".join(f"{name},a photograph\n" for name in names)
    (folder / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")
    whole = Params.model_construct(
        prepare=params, data=DataParams(), cluster=ClusterParams(mode="inline")
    )
    logging.disable(logging.WARNING)  # the photographs repeat, which `prepare` would warn of
    try:
        start = _cpu_seconds()
        prepare(whole, Layout(folder))
        return count / (_cpu_seconds() - start)
    finally:
        logging.disable(logging.NOTSET)


def _cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _loader_rate(trainer: Trainer) -> float:
    """Images a second of CPU time, which other processes of the machine do not change.

    One stream reads whole shards, as streams of large runs do; many streams would skip much of few
    shards. The first step is trained too, which gives the optimizer its moments.
    """
    plan = replace(trainer.plan, num_streams=1)
    stream = EpochStream(trainer.train_shards, plan, trainer.transform)
    batches = iter(epoch_loader(stream, workers=0))
    trainer.train_step(next(batches))
    start = time.process_time()
    loaded = sum(len(batch.keys) for batch in batches)
    return loaded / (time.process_time() - start)


def _size(folder: Path) -> int:
    """Bytes of the files of a folder: a manifest and its chunks."""
    return sum(path.stat().st_size for path in folder.rglob("*.json"))


def _bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for shard in manifest.shards)


def _states_bytes(ranks: int) -> int:
    """Bytes of the generator states of so many ranks."""
    file = io.BytesIO()
    torch.save([get_rng_state() for _ in range(ranks)], file)
    return len(file.getvalue())
