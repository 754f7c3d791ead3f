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
from pipeline.bench.fixtures import photographs, write_images, write_vectors
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
    """Of all runs of one kind, as the training loop took them.

    Attributes:
        starts: Seconds until each began to train.
        steps: Seconds of a step, in each epoch but the first of each run.
    """

    starts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def measure(self, config: TrainConfig, train: Callable[[TrainConfig], None]) -> None:
        """Adds a run."""
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
        """The median, seconds."""
        return statistics.median(self.steps)


def ddp_figures(folder: Path, sizes: ClusterSizes) -> list[Figure]:
    """`ray_step`, `two_ranks`, `kill_seconds`, and start-up times apart.

    Every rank has one thread. All take turns, and Ray is ended before others begin, as its own
    processes want some of a core.

    Args:
        folder: Where shards and runs go.
        sizes: How much.
    """
    material = Material.write(folder, sizes)
    ray, two, one = Times(), Times(), Times()
    init: list[float] = []
    killed: list[Figure] = []
    for turn in range(sizes.rounds):
        start = time.time()
        with ray_session(CLUSTER.max_workers):
            init.append(time.time() - start)
            ray.measure(material.run(f"ray-{turn}"), on_ray)
            if turn == sizes.rounds - 1:
                killed = kill_figures(material.run("killed", epochs=1), on_ray, sizes.kill_after)
        two.measure(material.run(f"two-{turn}"), lambda config: torchrun(config, 2))
        one.measure(material.run(f"one-{turn}"), lambda config: torchrun(config, 1))
    batch = sizes.global_batch_size
    return [
        Figure(
            "ray_step",
            ray.step / two.step,
            1.05,
            f"times torchrun's {two.step:.2f} s for {batch} images on two ranks",
            at_most=True,
        ),
        Figure(
            "two_ranks",
            one.step / two.step,
            1.7,
            f"times the {batch / one.step:.0f} images/s of one rank, a thread each",
        ),
        *killed,
        Figure("ray_init_seconds", statistics.median(init), None, "until Ray is there"),
        Figure("ray_start_seconds", statistics.median(ray.starts), None, "then, until it trains"),
        Figure("torchrun_start_seconds", statistics.median(two.starts), None, "until it trains"),
    ]


@dataclass(frozen=True)
class Material:
    """What all runs train on.

    Attributes:
        folder: Of shards and runs.
        sizes: How much.
        identities: Of the cache of each split.
    """

    folder: Path
    sizes: ClusterSizes
    identities: dict[str, dict[str, Any]]

    @classmethod
    def write(cls, folder: Path, sizes: ClusterSizes) -> Material:
        """Images and a cache for an epoch."""
        identities: dict[str, dict[str, Any]] = {}
        for split, count in (("train", sizes.steps * sizes.global_batch_size), ("val", 2)):
            images = folder / "images" / split
            write_images(images, photographs(), count, captions=1)
            identities[split] = write_vectors(
                images, folder / "embeddings" / split, views=4, captions=1, dim=sizes.dim
            )
        return cls(folder, sizes, identities)

    def run(self, name: str, epochs: int | None = None) -> TrainConfig:
        """A run that nobody has begun, of so many epochs."""
        return TrainConfig(
            cluster_params(self.sizes, epochs or self.sizes.epochs),
            self.folder / "images",
            self.folder / "embeddings",
            self.identities,
            open_storage(str(self.folder / "runs" / name)),
            CLUSTER,
        )


def on_ray(config: TrainConfig) -> None:
    """Trains to the end in two Ray workers."""
    launch(config, "bench", LiveTracker(None, "bench", "bench", {}, {}))  # tells nobody
