"""How long training waits for data."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs, write_images, write_vectors
from pipeline.bench.sizes import BenchSizes, distill_params
from pipeline.config.execution_params import ClusterParams
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer


def wait_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """`data_wait`: of epochs trained on one core, with one loader process on another.

    Every epoch starts its loader process and waits for its first batch, here as anywhere.

    Args:
        folder: Where shards go.
        sizes: How much.
    """
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.epoch_images), ("val", 1)):
        write_images(images / split, photographs(), count, captions=1)
        identities[split] = write_vectors(
            images / split, embeddings / split, views=4, captions=1, dim=sizes.dim
        )
    params = distill_params(sizes)
    trainer = Trainer(
        TrainConfig(
            params,
            images,
            embeddings,
            identities,
            open_storage(str(folder / "run")),
            ClusterParams(mode="inline", use_gpu=False, dataloader_workers=1),
        )
    )
    torch.set_num_threads(1)
    rows = []
    for _ in range(sizes.epochs):
        rows.append(trainer.train_epoch())
        trainer.end_epoch(rows[-1])
    rate = statistics.median(row["images_per_s"] for row in rows)
    return [
        Figure(
            "data_wait",
            statistics.median(row["data_wait"] for row in rows),
            0.05,
            f"of an epoch of {sizes.epoch_images} images at {rate:.0f}/s",
            at_most=True,
        )
    ]
