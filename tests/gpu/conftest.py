"""The device of these tests, and a small cache to train on, made without Ray, DVC and MLflow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench.fixtures import photographs, write_embeddings, write_images
from pipeline.bench.sizes import BenchSizes, distill_params
from pipeline.config.execution_params import ClusterParams
from pipeline.runtime.device import missing_gpu
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig

VARIABLE = "KDEOV_TESTS_DEVICE"
"""With the value `cpu`, tests that need no GPU run on the CPU."""
IMAGE = (160, 120)
SIZES = BenchSizes(teacher=(32, 64, 1, 64, 32, 77, 49408, 64, 1, 1), step_batch=16, epochs=2)


@pytest.fixture(scope="session")
def cuda() -> str:
    """`cuda`, for what only a GPU can do."""
    if reason := missing_gpu():
        pytest.skip(f"no GPU: {reason}")
    return "cuda"


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """`cuda`, or the CPU where the variable asks for it."""
    if os.environ.get(VARIABLE) == "cpu":
        return "cpu"
    return str(request.getfixturevalue("cuda"))


@dataclass(frozen=True)
class Cache:
    """Images with random embeddings of four views and a caption.

    Attributes:
        folder: Of the shards.
        identities: Of the cache, by split.
    """

    folder: Path
    identities: dict[str, dict[str, Any]]

    def config(self, run: Path, device: str, cluster: Any = None, **changes: Any) -> TrainConfig:
        """A distillation on a device, with a mosaic, captions and averaged weights.

        Args:
            run: Folder of the run.
            device: `cuda` or `cpu`.
            cluster: Values of the section `cluster`.
            changes: Values of the section `distill`.
        """
        params = distill_params(SIZES, contrastive=0.1)
        losses = params.losses.model_copy(update={"mosaic": 0.5})
        values = {"micro_batch_size": 8, "ema_decay": 0.9, "losses": losses, **changes}
        return TrainConfig(
            params=params.model_copy(update=values),
            images=self.folder / "images",
            embeddings=self.folder / "embeddings",
            identities=self.identities,
            run=open_storage(str(run)),
            cluster=ClusterParams(mode="inline", use_gpu=device == "cuda", **(cluster or {})),
        )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """48 images to train on and 10 to validate."""
    folder = tmp_path_factory.mktemp("cache")
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", 48), ("val", 10)):
        images = folder / "images" / split
        write_images(images, photographs(8, size=IMAGE), count, captions=1)
        identities[split] = write_embeddings(
            images, folder / "embeddings" / split, views=4, captions=1, dim=SIZES.dim, size=IMAGE
        )
    return Cache(folder, identities)
