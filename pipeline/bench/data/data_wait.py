"""Share of an epoch in which training waits for data."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs, write_embeddings, write_images
from pipeline.bench.sizes import BenchSizes, distill_params
from pipeline.config.execution_params import ClusterParams
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer


def data_wait_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `data_wait` over epochs on one core, with one dataloader worker on another.

    Every epoch starts its worker and waits for the first batch, as in any run.

    Args:
        folder: Folder of shards and the run.
        sizes: Sizes of the measurements.
    """
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.epoch_images), ("val", 1)):
        write_images(images / split, photographs(), count, captions=1)
        identities[split] = write_embeddings(
            images / split, embeddings / split, views=4, captions=1, dim=sizes.dim
        )
    params = distill_params(sizes)
    trainer = Trainer(
        TrainConfig(
            params=params,
            images=images,
            embeddings=embeddings,
            identities=identities,
            run=open_storage(str(folder / "run")),
            cluster=ClusterParams(mode="inline", use_gpu=False, dataloader_workers=1),
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
            0.02,
            f"of an epoch of {sizes.epoch_images} images at {rate:.0f}/s",
            at_most=True,
        )
    ]
