"""Training steps of two ranks on Ray, of the same loop under torchrun, and of one rank."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.bench.cluster.fault_injection import kill_figures, step_times
from pipeline.bench.cluster.torchrun_entry import torchrun
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs, write_embeddings, write_images
from pipeline.bench.sizes import ClusterSizes, cluster_params
from pipeline.config.execution_params import ClusterParams
from pipeline.runtime.ray_session import ray_session
from pipeline.storage.storage import open_storage
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch

CLUSTER = ClusterParams(mode="local", num_workers=2, use_gpu=False)


@dataclass
class Times:
    """Times of all runs of one kind, as the training loop logs them.

    Attributes:
        starts: Seconds from the start of each run to its first step.
        steps: Mean seconds a step, for each epoch but the first of each run.
    """

    starts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def measure(self, config: TrainConfig, train: Callable[[TrainConfig], None]) -> None:
        """Trains a run and adds its times."""
        begun = time.time()
        train(config)
        state = config.checkpoints.latest()
        assert state is not None  # every epoch ends with one
        first, *others = [
            config.params.global_batch_size / r["images_per_s"] for r in state["history"]
        ]
        steps = len(config.shards("train")) / config.params.global_batch_size
        self.starts.append(step_times(config.run)[0] - steps * first - begun)
        self.steps += others

    @property
    def step(self) -> float:
        """Median seconds a step."""
        return statistics.median(self.steps)


def ddp_figures(folder: Path, sizes: ClusterSizes) -> list[Figure]:
    """Measures `ray_step`, `two_ranks`, `kill_seconds`, and start-up times on their own.

    Every rank has one thread. The ways of training take turns, and Ray is stopped before the others
    start, as its own processes use part of a core.

    Args:
        folder: Folder of shards and runs.
        sizes: Sizes of the measurements.
    """
    fixtures = TrainingFixtures.write(folder, sizes)
    ray, two, one = Times(), Times(), Times()
    init: list[float] = []
    killed: list[Figure] = []
    for turn in range(sizes.rounds):
        start = time.time()
        with ray_session(CLUSTER.max_workers):
            init.append(time.time() - start)
            ray.measure(fixtures.run(f"ray-{turn}"), train_on_ray)
            if turn == sizes.rounds - 1:
                killed = kill_figures(
                    fixtures.run("killed", epochs=1), train_on_ray, sizes.kill_after
                )
        two.measure(fixtures.run(f"two-{turn}"), lambda config: torchrun(config, 2))
        one.measure(fixtures.run(f"one-{turn}"), lambda config: torchrun(config, 1))
    batch = sizes.global_batch_size
    return [
        Figure(
            "ray_step",
            ray.step / two.step,
            1.02,
            f"times torchrun's {two.step:.2f} s for {batch} images on two ranks",
            at_most=True,
        ),
        Figure(
            "two_ranks",
            one.step / two.step,
            1.85,
            f"times the {batch / one.step:.0f} images/s of one rank, a thread each",
        ),
        *killed,
        Figure("ray_init_seconds", statistics.median(init), None, "until Ray runs"),
        Figure(
            "ray_start_seconds", statistics.median(ray.starts), None, "then, until training starts"
        ),
        Figure(
            "torchrun_start_seconds", statistics.median(two.starts), None, "until training starts"
        ),
    ]


@dataclass(frozen=True)
class TrainingFixtures:
    """Data that all runs train on.

    Attributes:
        folder: Folder of shards and runs.
        sizes: Sizes of the measurements.
        identities: Identity of the cache, by split.
    """

    folder: Path
    sizes: ClusterSizes
    identities: dict[str, dict[str, Any]]

    @classmethod
    def write(cls, folder: Path, sizes: ClusterSizes) -> TrainingFixtures:
        """Writes images and a cache for one epoch."""
        identities: dict[str, dict[str, Any]] = {}
        for split, count in (("train", sizes.steps * sizes.global_batch_size), ("val", 2)):
            images = folder / "images" / split
            write_images(images, photographs(), count, captions=1)
            identities[split] = write_embeddings(
                images, folder / "embeddings" / split, views=4, captions=1, dim=sizes.dim
            )
        return cls(folder, sizes, identities)

    def run(self, name: str, epochs: int | None = None) -> TrainConfig:
        """Config of a new run; `epochs` replaces that of the sizes."""
        return TrainConfig(
            params=cluster_params(self.sizes, epochs or self.sizes.epochs),
            images=self.folder / "images",
            embeddings=self.folder / "embeddings",
            identities=self.identities,
            run=open_storage(str(self.folder / "runs" / name)),
            cluster=CLUSTER,
        )


def train_on_ray(config: TrainConfig) -> None:
    """Trains in two Ray workers, without a tracker."""
    launch(config, "bench", LiveTracker(None, "bench", "bench", {}, {}))
