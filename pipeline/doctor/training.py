"""Judges training: whether params, data and workers fit together, and whether data come as fast as
steps take them.
"""

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
from pipeline.doctor.check import Check, complaints, counted, ok, warning
from pipeline.doctor.node import NodeFacts
from pipeline.doctor.nodes import on_ray
from pipeline.runtime.node import ready_node
from pipeline.runtime.ray_session import one_line_errors_of_ray
from pipeline.training.config import TrainConfig
from pipeline.training.distill import check_training, train_config
from pipeline.training.trainer import Trainer

SECONDS = 3.0  # that each of the two rates is measured
PATIENCE_S = 60.0  # for a node of Ray that measures
WAITING = 0.25  # share of the time above which waiting for data is told
MICRO_BATCHES = 4  # of a step that is timed
HELD_STEPS = 2  # whose images are in memory: a full buffer would only delay the first batch


def fits(params: Params, layout: Layout) -> list[Check]:
    """Whether losses, data, batch and workers fit together, as training would find out."""
    workers = 1 if params.cluster.mode == "inline" else params.cluster.max_workers
    checks: list[Check] = []
    with complaints("training", checks):
        config = train_config(params, layout)
        check_training(config, workers)
        shards = config.shards("train").manifest.shards
        plan = config.plan([shard.samples for shard in shards], epoch=0)
        text = (
            f"{counted(workers, 'worker')}, {plan.global_batch_size} images a step, "
            f"{counted(plan.steps, 'step')} an epoch from {counted(len(shards), 'shard')}"
        )
        if len(shards) < workers:
            cure = "workers read the same shards; lower prepare.samples_per_shard"
            checks.append(warning("training", f"{text}: fewer shards than workers", cure))
        else:
            checks.append(ok("training", text))
    return checks


@dataclass(frozen=True)
class Rates:
    """Images per second of one worker.

    Attributes:
        read: That one loader process makes.
        trained: That training takes.
        device: On which.
    """

    read: float
    trained: float
    device: str

    @property
    def loaders(self) -> int:
        """Loader processes that keep up with training."""
        return max(1, math.ceil(self.trained / self.read))

    def waiting(self, loaders: int) -> float:
        """Share of the time that training waits for data; without loader processes, its own reads
        them.
        """
        if loaders:
            return max(0.0, 1 - loaders * self.read / self.trained)
        return self.trained / (self.trained + self.read)


def data_rate(params: Params, layout: Layout, nodes: list[NodeFacts]) -> list[Check]:
    """Whether data come as fast as steps take them, measured for some seconds on a machine that
    trains.
    """
    gpus = bool(params.cluster.use_gpu) and any(node.usable_gpus for node in nodes)
    config = train_config(params, layout).with_cluster(use_gpu=gpus)
    threads = None if params.cluster.mode == "inline" else 1  # so Ray gives them
    checks: list[Check] = []
    with complaints("data rate", checks):
        rates = _on_a_worker(config, threads) if on_ray() else measured(config, threads)
        if rates is None:
            text = f"not measured within {PATIENCE_S:.0f} s: no worker is free"
            return [warning("data rate", text, "see what else runs on the cluster")]
        cores = max(node.cpus for node in nodes)
        checks.append(judged(rates, params.cluster.dataloader_workers, cores))
    return checks


def _on_a_worker(config: TrainConfig, threads: int | None) -> Rates | None:
    """Measured where training would run; None where no worker is free."""
    import ray

    remote = ray.remote(_measured_there).options(
        num_cpus=1, num_gpus=int(config.cluster.use_gpu is True)
    )
    reference = remote.remote(config, threads)
    ready, _ = ray.wait([reference], timeout=PATIENCE_S)
    if not ready:
        ray.cancel(reference, force=True)
        return None
    with one_line_errors_of_ray():
        return ray.get(reference)


def _measured_there(config: TrainConfig, threads: int | None) -> Rates:
    ready_node()  # the job's files may be on the driver's machine alone
    return measured(config, threads)


def judged(rates: Rates, loaders: int, cores: int) -> Check:
    """Says whether data keep up.

    Args:
        rates: As measured.
        loaders: `cluster.dataloader_workers`.
        cores: Of the machine that trains.
    """
    waiting = rates.waiting(loaders)
    found = (
        f"one process reads {rates.read:,.0f} images/s, a worker trains {rates.trained:,.0f}/s "
        f"on {rates.device.upper()}"
    )
    if waiting <= WAITING:
        return ok("data rate", f"{found}: training waits {waiting:.0%} of the time")
    cure = f"set cluster.dataloader_workers to {rates.loaders}"
    if cores <= rates.loaders:
        cure += f" where there are as many cores (here {cores})"
    text = f"{found}: training would wait {waiting:.0%} of the time"
    return warning("data rate", text, cure)


def measured(config: TrainConfig, threads: int | None, seconds: float = SECONDS) -> Rates:
    """Measures both rates here.

    Args:
        config: Of the run.
        threads: CPU threads of training; None leaves torch as it is.
        seconds: For each of the two.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        trainer = Trainer(config)
        return Rates(read_rate(config, seconds), trained_rate(trainer, seconds), trainer.device)
    finally:
        torch.set_num_threads(before)


def read_rate(config: TrainConfig, seconds: float) -> float:
    """Images per second that one loader process makes of the training shards."""
    shards, p = config.shards("train"), config.params
    plan = replace(
        config.plan(shards.manifest.sizes, epoch=0), buffer=HELD_STEPS * p.global_batch_size
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
    if len(counts) > 1:  # opening shards is no part of the rate
        return sum(counts[1:]) / (now - first)
    return sum(counts) / (now - start)


def trained_rate(trainer: Trainer, seconds: float) -> float:
    """Images per second that training takes, on generated ones."""
    p, dim = trainer.params, trainer.train_shards.dim
    size = min(p.global_batch_size, MICRO_BATCHES * p.micro_batch_size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, p.image_size, p.image_size), generator=generator)
    teacher, texts = (
        F.normalize(torch.randn(size, dim, generator=generator), dim=-1) for _ in range(2)
    )
    batch = Batch([str(number) for number in range(size)], pixels.byte(), teacher, texts)
    trainer.student.train()
    trainer.train_step(batch)  # to warm up
    start, steps, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        trainer.train_step(batch)
        if trainer.device == "cuda":
            torch.cuda.synchronize()
        steps, passed = steps + 1, time.perf_counter() - start
    return steps * size / passed
