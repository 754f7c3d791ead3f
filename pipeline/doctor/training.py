"""Checks of training: params, data and workers fit together, and loading keeps up with training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from kdeov.data.transform import ImageTransform
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.loader import Batch, EpochStream, epoch_loader
from pipeline.doctor.check import Check, ok, quantity, report_errors, warning
from pipeline.doctor.node import NodeFacts
from pipeline.doctor.nodes import connected_to_ray
from pipeline.runtime.device import cpu_threads
from pipeline.runtime.node import ready_node
from pipeline.runtime.ray_session import one_line_errors_of_ray
from pipeline.training.config import TrainConfig
from pipeline.training.distill import check_training, train_config
from pipeline.training.loop import TRAIN_THREADS
from pipeline.training.trainer import Trainer

SECONDS = 3.0  # of measurement, for each of the two rates
TIMEOUT_S = 60.0  # for a free worker on Ray
MAX_DATA_WAIT = 0.25  # share of time spent waiting for data, above which to warn
MICRO_BATCHES = 4  # of a timed step
BUFFER_STEPS = 2  # in the shuffle buffer: a full one would only delay the first batch


def training_plan(params: Params, layout: Layout) -> list[Check]:
    """Checks that losses, data, batch and workers fit together, as training does at its start."""
    workers = params.cluster.most_processes
    checks: list[Check] = []
    with report_errors("training", checks):
        config = train_config(params, layout)
        check_training(config)
        shards = config.shards("train").manifest.shards
        plan = config.plan([shard.samples for shard in shards], epoch=0)
        text = (
            f"{quantity(workers, 'worker')}, {plan.global_batch_size} images a step, "
            f"{quantity(plan.steps, 'step')} an epoch from {quantity(len(shards), 'shard')}"
        )
        if len(shards) < workers:
            fix = "workers would read the same shards; lower prepare.samples_per_shard"
            checks.append(warning("training", f"{text}: fewer shards than workers", fix))
        else:
            checks.append(ok("training", text))
    return checks


@dataclass(frozen=True)
class Rates:
    """Images per second.

    Attributes:
        read: Rate of one dataloader worker.
        trained: Rate of training, in one process.
        device: Of training, as torch names it.
    """

    read: float
    trained: float
    device: str

    @property
    def loaders(self) -> int:
        """Dataloader workers that keep up with training."""
        return max(1, math.ceil(self.trained / self.read))

    def data_wait(self, loaders: int) -> float:
        """Share of time in which training waits for data. With 0 loaders, the training process
        reads them itself.
        """
        if loaders:
            return max(0.0, 1 - loaders * self.read / self.trained)
        return self.trained / (self.trained + self.read)


def data_rate(params: Params, layout: Layout, nodes: list[NodeFacts]) -> list[Check]:
    """Measures on a machine that trains, for some seconds, whether loading keeps up."""
    gpus = bool(params.cluster.use_gpu) and any(node.usable_gpus for node in nodes)
    config = train_config(params, layout).with_cluster(use_gpu=gpus)
    checks: list[Check] = []
    with report_errors("data rate", checks):
        rates = _measure_on_ray(config) if connected_to_ray() else measure_rates(config)
        if rates is None:
            text = f"not measured within {TIMEOUT_S:.0f} s: no worker is free"
            return [warning("data rate", text, "see the other jobs of the cluster")]
        cores = max(node.cpus for node in nodes)
        checks.append(rate_check(rates, params.cluster.dataloader_workers, cores))
    return checks


def _measure_on_ray(config: TrainConfig) -> Rates | None:
    """Measures where training would run; None where no worker is free."""
    import ray

    remote = ray.remote(_measure_on_worker).options(
        num_cpus=1, num_gpus=int(config.cluster.use_gpu is True)
    )
    reference = remote.remote(config)
    ready, _ = ray.wait([reference], timeout=TIMEOUT_S)
    if not ready:
        ray.cancel(reference, force=True)
        return None
    with one_line_errors_of_ray():
        return ray.get(reference)


def _measure_on_worker(config: TrainConfig) -> Rates:
    ready_node()  # else the job's files may be on the driver's machine alone
    return measure_rates(config)


def rate_check(rates: Rates, loaders: int, cores: int) -> Check:
    """Compares the rate of loading with that of training.

    Args:
        rates: Measured rates.
        loaders: `cluster.dataloader_workers`.
        cores: CPU cores of the machine that trains.
    """
    data_wait = rates.data_wait(loaders)
    found = (
        f"one process loads {rates.read:,.0f} images/s, a worker trains on {rates.trained:,.0f}/s "
        f"with {rates.device.upper()}"
    )
    if data_wait <= MAX_DATA_WAIT:
        return ok("data rate", f"{found}: training waits {data_wait:.0%} of the time")
    fix = f"set cluster.dataloader_workers to {rates.loaders}"
    if cores <= rates.loaders:
        fix += f" where there are as many cores (here {cores})"
    text = f"{found}: training would wait {data_wait:.0%} of the time"
    return warning("data rate", text, fix)


def measure_rates(config: TrainConfig, seconds: float = SECONDS) -> Rates:
    """Measures both rates in this process.

    Args:
        config: Config of the run.
        seconds: Time for each of the two rates.
    """
    with cpu_threads(TRAIN_THREADS):
        trainer = Trainer(config)
        return Rates(read_rate(config, seconds), trained_rate(trainer, seconds), trainer.device)


def read_rate(config: TrainConfig, seconds: float) -> float:
    """Images per second that one dataloader worker loads from the training shards."""
    shards, p = config.shards("train"), config.params
    plan = replace(
        config.plan(shards.manifest.sizes, epoch=0), buffer=BUFFER_STEPS * p.global_batch_size
    )
    stream = EpochStream(shards, plan, ImageTransform(size=p.image_size))
    start = now = first = time.perf_counter()
    counts: list[int] = []
    for batch in epoch_loader(stream, workers=1):
        now = time.perf_counter()
        first = first if counts else now
        counts.append(len(batch.keys))
        if now - start > seconds:
            break
    if len(counts) > 1:  # the first batch also waits for shards to open
        return sum(counts[1:]) / (now - first)
    return sum(counts) / (now - start)


def trained_rate(trainer: Trainer, seconds: float) -> float:
    """Images per second of training on random pixels."""
    p, dim = trainer.params, trainer.train_shards.dim
    size = min(p.global_batch_size, MICRO_BATCHES * p.micro_batch_size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, p.image_size, p.image_size), generator=generator)
    teacher, texts = (
        F.normalize(torch.randn(size, dim, generator=generator), dim=-1) for _ in range(2)
    )
    count = trainer.train_shards.num_regions
    boxes = torch.tensor([0.0, 0.0, p.image_size, p.image_size]).expand(size, count, 4)
    keys, regions = [str(number) for number in range(size)], teacher[:, None].repeat(1, count, 1)
    batch = Batch(keys, pixels.byte(), teacher, texts, boxes, regions)
    trainer.student.train()
    trainer.train_step(batch)  # warm-up
    start, steps, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        trainer.train_step(batch)
        if trainer.device == "cuda":
            torch.cuda.synchronize()
        steps, passed = steps + 1, time.perf_counter() - start
    return steps * size / passed
