"""Training steps of two ranks on Ray, of the same loop under torchrun, and of one rank."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.bench.figures import Figure
from pipeline.bench.killing import kill_figures
from pipeline.bench.material import photographs, write_images, write_vectors
from pipeline.bench.sizes import ClusterSizes, cluster_params
from pipeline.bench.step_watch import StepWatch
from pipeline.bench.torchrun_entry import torchrun
from pipeline.launch import launch
from pipeline.on_ray import ray_session
from pipeline.params import ClusterParams
from pipeline.tracking import LiveTracker
from pipeline.trainer import TrainConfig

CLUSTER = ClusterParams(mode="local", workers=2, use_gpu=False)


class Untracked(LiveTracker):
    """Tells nobody of epochs."""

    def __init__(self) -> None:
        pass

    def log_epochs(self, rows: list[dict[str, float]]) -> None:
        """Does nothing."""


@dataclass
class Times:
    """Of all runs of one kind.

    Attributes:
        first: Seconds from each start to the end of the first step.
        steps: Seconds of each step after the warm-up.
    """

    first: list[float]
    steps: list[float]

    @property
    def step(self) -> float:
        """The median."""
        return statistics.median(self.steps)


def ddp_figures(folder: Path, sizes: ClusterSizes) -> list[Figure]:
    """`ray_step`, `two_ranks`, `kill_seconds`, and start-up times apart.

    Every rank has one thread. All take turns, and Ray is ended before others begin, as its own
    processes want some of a core.

    Args:
        folder: Where shards and runs go.
        sizes: How much.
    """
    config = train_config(folder, sizes)
    ray, two, one = Times([], []), Times([], []), Times([], [])
    init: list[float] = []
    killed: list[Figure] = []
    for turn in range(sizes.rounds):
        start = time.time()
        with ray_session(CLUSTER.most_workers):
            init.append(time.time() - start)
            _time(ray, config(f"ray-{turn}"), 2, sizes, on_ray)
            if turn == sizes.rounds - 1:
                killed = kill_figures(config("killed"), on_ray, sizes.kill_after)
        _time(two, config(f"two-{turn}"), 2, sizes, lambda c: torchrun(c, 2))
        _time(one, config(f"one-{turn}"), 1, sizes, lambda c: torchrun(c, 1))
    batch = sizes.global_batch
    return [
        Figure(
            "ray_step",
            ray.step / two.step,
            1.05,
            f"times torchrun's {two.step:.2f} s for {batch} pictures on two ranks",
            at_most=True,
        ),
        Figure(
            "two_ranks",
            one.step / two.step,
            1.7,
            f"times the {batch / one.step:.0f} pictures/s of one rank, a thread each",
        ),
        *killed,
        Figure("ray_init_seconds", statistics.median(init), None, "until Ray is there"),
        Figure("ray_start_seconds", statistics.median(ray.first), None, "then to the first step"),
        Figure("torchrun_start_seconds", statistics.median(two.first), None, "to the first step"),
    ]


def train_config(folder: Path, sizes: ClusterSizes) -> Callable[[str], TrainConfig]:
    """Writes pictures and a cache for an epoch; runs that train on them differ in their name."""
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.steps * sizes.global_batch), ("val", 2)):
        write_images(images / split, photographs(), count, captions=1)
        identities[split] = write_vectors(
            images / split, embeddings / split, views=4, captions=1, dim=sizes.dim
        )
    plain = TrainConfig(
        cluster_params(sizes), images, embeddings, identities, folder, use_gpu=False
    )
    return lambda name: replace(plain, run=folder / "runs" / name)


def on_ray(config: TrainConfig) -> None:
    """Trains to the end in two Ray workers."""
    launch(config, CLUSTER, "bench", Untracked())


def _time(
    times: Times,
    config: TrainConfig,
    ranks: int,
    sizes: ClusterSizes,
    train: Callable[[TrainConfig], None],
) -> None:
    start = time.time()
    with StepWatch(config.run, ranks) as watch:
        train(config)
    ends = watch.ends[0]  # a step ends on all ranks when its gradients are joined
    times.first.append(ends[0] - start)
    times.steps += [end - begin for begin, end in pairwise(ends)][sizes.warm - 1 :]
