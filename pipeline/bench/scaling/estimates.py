"""Estimates of a large run: storage, hours, network and dollars, by arithmetic from stated inputs.

Results of `simulate` are exact; everything else is extrapolated, and each row names its basis.
Latencies of collectives and of the storage are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.bench.data.planning import PER_SHARD
from pipeline.bench.scaling.inputs import Inputs
from pipeline.bench.scaling.preparation import simulate_preparation
from pipeline.bench.scaling.simulation import Simulation, simulate
from pipeline.bench.sizes import PlanSize

FLOAT = 4  # bytes
SIMULATED = "exact: the simulated plan"


@dataclass(frozen=True)
class Row:
    """A row of the plan.

    Attributes:
        name: Name and unit of the values.
        values: One value, or one for each number of GPUs.
        basis: Source of the extrapolation.
    """

    name: str
    values: Sequence[float]
    basis: str


@dataclass(frozen=True)
class Step:
    """Seconds of a step: the slower of computing and loading, then communication.

    Attributes:
        compute: On the GPU.
        load: On the CPU cores that read for the GPU.
        gradients: All-reduce of gradients.
        embeddings: All-gather of the embeddings of all images, for losses that compare images.
    """

    compute: float
    load: float
    gradients: float
    embeddings: float

    @property
    def alone(self) -> float:
        """Total with the feature loss alone."""
        return max(self.compute, self.load) + self.gradients

    @property
    def coupled(self) -> float:
        """Total with losses that compare images."""
        return self.alone + self.embeddings


def step_of(inputs: Inputs, gpus: int) -> Step:
    """Times of a step on so many GPUs.

    A ring sends gradients twice. Coupled losses gather the embeddings of student, teacher and
    captions, and reduce the gradients of the first: five times the batch's embeddings in all.
    """
    share = inputs.batch / gpus
    bytes_per_s = inputs.network * 1e9 / 8
    return Step(
        compute=share / inputs.student_rate,
        load=share / (inputs.cores * inputs.loader_rate),
        gradients=2 * inputs.parameters * FLOAT / bytes_per_s,
        embeddings=5 * inputs.batch * inputs.dim * FLOAT / bytes_per_s,
    )


def image_bytes(inputs: Inputs) -> tuple[float, float]:
    """Bytes of an image in its image shard and in its teacher shard."""
    embeddings = inputs.views + inputs.captions
    return (
        inputs.jpeg_bytes + inputs.overhead_bytes,
        inputs.sample_bytes + embeddings * inputs.dim * 2,
    )


def rows_of_data(inputs: Inputs) -> list[Row]:
    """Rows that do not depend on the number of GPUs."""
    image, teacher = image_bytes(inputs)
    shards = math.ceil(inputs.images / PER_SHARD)
    hours, prepare = teacher_hours(inputs), prepare_hours(inputs)
    terabytes = inputs.images * (image + teacher) / 1e12
    return [
        Row("image shards, TB", [inputs.images * image / 1e12], "published and measured bytes"),
        Row("teacher shards, TB", [inputs.images * teacher / 1e12], "measured bytes"),
        Row(f"shards of {PER_SHARD:,}, of each kind", [shards], "arithmetic"),
        Row("both manifests, MB", [2 * shards * inputs.shard_bytes / 1e6], "measured bytes"),
        Row("storage, $ a month", [terabytes * 1000 * inputs.storage_price], "assumed price"),
        Row("preparing, core-hours", [prepare], "measured rate"),
        Row("preparing, $", [prepare * inputs.core_price], "the same, assumed price"),
        Row(
            "hashes of near duplicates, GB", [inputs.images * inputs.hash_bytes / 1e9], "arithmetic"
        ),
        Row("teacher, GPU-hours", [hours], "published rates, measured share"),
        Row("teacher, $", [hours * inputs.gpu_price], "the same, assumed price"),
        Row(
            "cores that read for a teacher's GPU",
            [inputs.images * inputs.views / (hours * 3600) / inputs.loader_rate],
            "the same, measured loader",
        ),
    ]


def prepare_hours(inputs: Inputs) -> float:
    """Core-hours to read, check and pack all images."""
    return inputs.images / inputs.prepare_rate / 3600


def rows_of_preparing(inputs: Inputs, cores: Sequence[int]) -> list[Row]:
    """Rows of the stage `prepare`, with a value for each number of cores, a worker each."""
    found = [simulate_preparation([int(inputs.images)], PER_SHARD, count) for count in cores]
    hours = prepare_hours(inputs)
    stored = image_bytes(inputs)[0] / 1e6  # MB an image
    return [
        Row("shards a worker, most", [f.rounds for f in found], SIMULATED),
        Row("inputs in no shard or in two", [f.missed + f.repeated for f in found], SIMULATED),
        Row("workers are busy, %", [100 * f.busy for f in found], SIMULATED),
        Row(
            "preparing, hours",
            [hours / count / f.busy for count, f in zip(cores, found, strict=True)],
            "measured rate, and who waits at the end",
        ),
        Row("reading in all, MB/s", _rates(inputs, cores, inputs.jpeg_bytes / 1e6), "the same"),
        Row("writing in all, MB/s", _rates(inputs, cores, stored), "the same"),
        Row(
            "a killed worker costs, s",
            [PER_SHARD / inputs.prepare_rate] * len(cores),
            "its shard, at most",
        ),
    ]


def _rates(inputs: Inputs, cores: Sequence[int], megabytes: float) -> list[float]:
    return [count * inputs.prepare_rate * megabytes for count in cores]


def teacher_hours(inputs: Inputs) -> float:
    """GPU-hours to embed all views and captions."""
    views = inputs.images * (inputs.views + inputs.captions * inputs.caption_cost)
    return views / (inputs.teacher_rate * inputs.teacher_share) / 3600


def rows_of_epoch(inputs: Inputs, gpus: Sequence[int]) -> list[Row]:
    """Rows of an epoch of training, with a value for each number of GPUs."""
    found = [simulated(inputs, count) for count in gpus]
    steps = [step_of(inputs, count) for count in gpus]
    sizes = sum(image_bytes(inputs))
    alone = [s.steps * step.alone / 3600 for s, step in zip(found, steps, strict=True)]
    coupled = [s.steps * step.coupled / 3600 for s, step in zip(found, steps, strict=True)]
    # a stream also reads the samples of a shard before its first one
    read = [
        inputs.batch * (1 + s.skipped) * sizes / step.alone / 1e9
        for s, step in zip(found, steps, strict=True)
    ]
    checkpoint = [(inputs.checkpoint_bytes + count * inputs.rank_bytes) / 1e6 for count in gpus]
    rate = "published rate"
    return [
        Row("embedding before, hours", [teacher_hours(inputs) / count for count in gpus], rate),
        Row("images a GPU a step", [inputs.batch / count for count in gpus], "arithmetic"),
        Row("steps", [s.steps for s in found], SIMULATED),
        Row("images a GPU, fewest", [s.rank_samples[0] for s in found], SIMULATED),
        Row("images a GPU, most", [s.rank_samples[1] for s in found], SIMULATED),
        Row("shards a GPU opens, most", [s.rank_shards[1] for s in found], SIMULATED),
        Row("readers of a shard at once, most", [s.shard_readers for s in found], SIMULATED),
        Row("shuffle buffer a GPU, GB", [s.held * sizes / 1e9 for s in found], "measured bytes"),
        Row("GPU, ms a step", [step.compute * 1e3 for step in steps], rate),
        Row("its cores, ms a step", [step.load * 1e3 for step in steps], "measured loader"),
        Row("gradients, ms a step", [step.gradients * 1e3 for step in steps], "assumed network"),
        Row(
            "embeddings of coupled losses, ms a step",
            [step.embeddings * 1e3 for step in steps],
            "assumed network",
        ),
        Row("epoch, hours", alone, "the slower of GPU and cores, and gradients"),
        Row("epoch with coupled losses, hours", coupled, "the same, and embeddings"),
        Row(
            "epoch, $",
            [h * n * inputs.gpu_price for h, n in zip(alone, gpus, strict=True)],
            "assumed price",
        ),
        Row(
            "reading a GPU, MB/s",
            [1000 * r / n for r, n in zip(read, gpus, strict=True)],
            "measured bytes",
        ),
        Row("reading in all, GB/s", read, "measured bytes"),
        Row(
            "requests to the storage, 1/s",
            [1e9 * r / inputs.request_bytes for r in read],
            "measured bytes",
        ),
        Row(
            "buffers of open shards a GPU, GB",
            [2 * inputs.num_streams / count * inputs.request_bytes / 1e9 for count in gpus],
            "arithmetic",
        ),
        Row("checkpoint, MB", checkpoint, "measured bytes"),
        Row("writing it, s", [size / inputs.upload for size in checkpoint], "assumed stream"),
        Row(
            "all checkpoints, % of an epoch",
            [
                100 * size / inputs.upload / (inputs.checkpoint_every * step.alone)
                for size, step in zip(checkpoint, steps, strict=True)
            ],
            "assumed stream",
        ),
    ]


def simulated(inputs: Inputs, gpus: int) -> Simulation:
    """Simulates the data plan of an epoch."""
    size = PlanSize(
        int(inputs.images), gpus, int(inputs.batch), int(inputs.num_streams), int(inputs.buffer)
    )
    full, rest = divmod(size.samples, PER_SHARD)
    return simulate(size.plan([PER_SHARD] * full + [rest] * bool(rest)), gpus)
