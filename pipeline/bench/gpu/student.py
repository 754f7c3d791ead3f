"""Training steps of the student: against a bare loop, fed from the host, and what each setting
gives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs, write_embeddings, write_images
from pipeline.bench.gpu.bare import BareLoop, wait_for
from pipeline.bench.gpu.sizes import GpuSizes
from pipeline.bench.sizes import distill_params
from pipeline.config.execution_params import ClusterParams
from pipeline.data.batch import Batch
from pipeline.data.loader import EpochStream, epoch_loader
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.runtime.device import cpu_threads
from pipeline.runtime.prefetch import prefetched
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer

STREAMS = 16  # readers of shards, as many as in the pipeline's params


def student_figures(folder: Path, device: str, sizes: GpuSizes) -> list[Figure]:
    """Measures `step_share`, `fed_step_share`, `student_images_per_s`, `compile_speedup`, the
    loader; and on a GPU `bfloat16_speedup`, `channels_last_speedup`, `launch_share` and memory.

    Args:
        folder: Folder of shards and the run.
        device: `cuda` or `cpu`.
        sizes: Sizes of the measurements.
    """
    gpu = device == "cuda"
    config = _config(folder, sizes, gpu)
    trainer = Trainer(config)
    batches, loaded = _batches(trainer)
    inputs = [trainer.inputs(batch) for batch in batches]
    memory = _peak_memory(trainer, inputs) if gpu else 0.0  # before other loops have memory
    bare = BareLoop(trainer.student, inputs, bfloat16=gpu)
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: bare.run(sizes.steps),
        "trainer": lambda: _train(trainer, islice(cycle(inputs), sizes.steps)),
        "fed": lambda: _train(
            trainer,
            prefetched(islice(cycle(batches), sizes.steps), trainer.inputs, device),
        ),
    }
    if sizes.compile:
        compiled = Trainer(config.with_cluster(compile=True))
        calls["compiled"] = lambda: _train(compiled, islice(cycle(inputs), sizes.steps))
    if gpu:
        single = BareLoop(trainer.student, inputs, bfloat16=False)
        planar = BareLoop(trainer.student, inputs, channels_last=False)
        calls["float32"] = lambda: single.run(sizes.steps)
        calls["planar"] = lambda: planar.run(sizes.steps)
    times = interleaved(calls, sizes.repeats)
    images = sizes.steps * sizes.batch
    rate = images / statistics.median(times["trainer"])
    figures = [
        Figure(
            "step_share",
            median_ratio(times["bare"], times["trainer"]),
            0.98 if gpu else None,
            f"of the bare loop's {images / statistics.median(times['bare']):,.0f} images/s",
        ),
        Figure(
            "fed_step_share",
            median_ratio(times["bare"], times["fed"]),
            None,
            "the same, from bytes in the host's memory",
        ),
        Figure("student_images_per_s", rate, None, f"{sizes.batch} images a step"),
        Figure("loader_images_per_s", loaded, None, "read and rendered by one core"),
        Figure("loader_cores", rate / loaded, None, "that feed this device"),
    ]
    if sizes.compile:
        gain = median_ratio(times["trainer"], times["compiled"])
        figures.append(Figure("compile_speedup", gain, None, "of a step, by cluster.compile"))
    return figures + (_gpu_figures(times, bare, memory, sizes) if gpu else [])


def _gpu_figures(
    times: dict[str, list[float]],
    bare: BareLoop,
    memory: float,
    sizes: GpuSizes,
) -> list[Figure]:
    """What only a GPU has; `memory` in GiB."""
    shares = []
    for _ in range(sizes.repeats):  # a step at a time: the queue of launches is short
        start = time.perf_counter()
        launched = bare.run(1)
        shares.append(launched / (time.perf_counter() - start))
    return [
        Figure(
            "bfloat16_speedup",
            median_ratio(times["float32"], times["bare"]),
            None,
            "of a bare step, against single precision (convolutions in TF32)",
        ),
        Figure(
            "channels_last_speedup",
            median_ratio(times["planar"], times["bare"]),
            None,
            "of a bare step",
        ),
        Figure(
            "launch_share",
            statistics.median(shares),
            None,
            "of a bare step until its kernels are launched; near 1, CUDA graphs would help",
        ),
        Figure(
            "train_memory_gib",
            memory,
            None,
            f"at most, in a step of {sizes.batch} images, with {sizes.batches} steps' pixels",
        ),
    ]


def _peak_memory(trainer: Trainer, inputs: list[Any]) -> float:
    """GiB of a training step, the pixels of all `inputs` included."""
    torch.cuda.reset_peak_memory_stats()
    _train(trainer, islice(cycle(inputs), 2))
    return torch.cuda.max_memory_allocated() / 2**30


def _train(trainer: Trainer, batches: Any) -> None:
    """Takes a training step with each batch, and waits until they are done."""
    trainer.student.train()
    for batch in batches:
        trainer.train_step(batch)
    wait_for(trainer.device)


def _batches(trainer: Trainer) -> tuple[list[Batch], float]:
    """The batches of an epoch, and the images per second at which one core loads them."""
    stream = EpochStream(
        trainer.train_shards,
        trainer.plan,
        trainer.transform,
        colors_on_device=trainer.device == "cuda",
    )
    with cpu_threads(1):
        start = time.perf_counter()
        batches = list(epoch_loader(stream, workers=0))
        seconds = time.perf_counter() - start
    return batches, sum(len(batch.keys) for batch in batches) / seconds


def _config(folder: Path, sizes: GpuSizes, gpu: bool) -> TrainConfig:
    images, embeddings = folder / "images", folder / "embeddings"
    identities: dict[str, dict[str, Any]] = {}
    for split, count in (("train", sizes.batches * sizes.batch), ("val", 1)):
        write_images(images / split, photographs(), count, captions=0)
        identities[split] = write_embeddings(
            images / split, embeddings / split, views=4, captions=0, dim=sizes.data.dim
        )
    return TrainConfig(
        # each stream keeps two shards open
        params=distill_params(sizes.data).model_copy(
            update={"epochs": 1_000, "num_streams": min(STREAMS, sizes.batch)}
        ),
        images=images,
        embeddings=embeddings,
        identities=identities,
        run=open_storage(str(folder / "run")),
        cluster=ClusterParams(mode="inline", use_gpu=gpu),
    )
