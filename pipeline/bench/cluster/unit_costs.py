"""What one image, one shard and one checkpoint cost here: that by which the scaling plan
multiplies. The figures have the names of its inputs.
"""

from __future__ import annotations

import io
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kdeov.training.rng import get_rng_state
from pipeline.artifacts.shards import MANIFEST, Manifest
from pipeline.bench.data.planning import PER_SHARD, write_manifest
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import WEB_IMAGE, photographs, write_images, write_vectors
from pipeline.bench.sizes import ClusterSizes, cluster_params
from pipeline.config.execution_params import ClusterParams
from pipeline.config.stage_params import LossParams
from pipeline.data.loader import EpochStream, epoch_loader
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer

VIEWS, CAPTIONS = 4, 1
HALF = 2  # bytes of a half float
MANY = 1000  # shards of which a manifest is weighed


def unit_figures(folder: Path, sizes: ClusterSizes) -> list[Figure]:
    """`loader_rate`, and the bytes of what is stored.

    The checkpoint is the largest that params can ask for: with fusion and averaged weights.

    Args:
        folder: Where shards go.
        sizes: How much.
    """
    trainer = _trainer(folder, sizes)
    rate = _loader_rate(trainer)
    trainer.save()
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()
    images, vectors = (
        _bytes(manifest) / sizes.loaded
        for manifest in (trainer.train_shards.manifest, trainer.train_shards.cache)
    )
    jpeg = sum(map(len, islice(photographs(size=WEB_IMAGE), sizes.loaded))) / sizes.loaded
    write_manifest(folder / "many", MANY * PER_SHARD)
    parameters = sum(p.numel() for p in trainer.state.model.parameters() if p.requires_grad)
    pixels = "{}x{}".format(*WEB_IMAGE)
    values: dict[str, tuple[float, str]] = {
        "loader_rate": (rate, f"images/s of {pixels} that a core reads and renders"),
        "overhead_bytes": (images - jpeg, "of an image's caption and tar headers"),
        "sample_bytes": (
            vectors - (VIEWS + CAPTIONS) * sizes.dim * HALF,
            "of an image in a teacher shard, beside its vectors",
        ),
        "shard_bytes": ((folder / "many" / MANIFEST).stat().st_size / MANY, "of one in a manifest"),
        "parameters": (parameters, "that are trained, with fusion"),
        "checkpoint_bytes": (checkpoint.stat().st_size, "of one rank"),
        "rank_bytes": ((_states_bytes(33) - _states_bytes(1)) / 32, "more of it for each rank"),
    }
    return [Figure(name, value, None, note) for name, (value, note) in values.items()]


def _trainer(folder: Path, sizes: ClusterSizes) -> Trainer:
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.loaded), ("val", 1)):
        write_images(images / split, photographs(size=WEB_IMAGE), count, CAPTIONS)
        identities[split] = write_vectors(
            images / split, embeddings / split, VIEWS, CAPTIONS, sizes.dim, WEB_IMAGE
        )
    losses = LossParams(
        feature=1, affinity=0, relation=0, contrastive=0.1, interactive=0, fusion=0.1
    )
    params = cluster_params(sizes).model_copy(update={"ema_decay": 0.999, "losses": losses})
    run = open_storage(str(folder / "run"))
    return Trainer(
        TrainConfig(
            params,
            images,
            embeddings,
            identities,
            run,
            cluster=ClusterParams(mode="inline", use_gpu=False),
        )
    )


def _loader_rate(trainer: Trainer) -> float:
    """Images a second of CPU time, so that it does not matter what else the machine does.

    One lane reads whole shards, as those of large runs do; many streams would pass over much of few
    shards. The first step is trained too, which gives the optimizer its moments.
    """
    plan = replace(trainer.plan, num_streams=1)
    stream = EpochStream(trainer.train_shards, plan, trainer.transform)
    batches = iter(epoch_loader(stream, workers=0))
    trainer.train_step(next(batches))
    start = time.process_time()
    loaded = sum(len(batch.keys) for batch in batches)
    return loaded / (time.process_time() - start)


def _bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for shard in manifest.shards)


def _states_bytes(ranks: int) -> int:
    """What the generators of so many ranks weigh."""
    file = io.BytesIO()
    torch.save([get_rng_state() for _ in range(ranks)], file)
    return len(file.getvalue())
