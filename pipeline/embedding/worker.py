"""The worker process of `embed`: loads the teacher once and computes teacher shards."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdeov.data.region_views import RegionPlan
from kdeov.data.views import ViewPlan
from kdeov.errors import ConfigError
from kdeov.teachers.base import TowerTeacher
from pipeline.artifacts.identity import cache_identity, region_plan, view_plan
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.config.stage_params import EmbedParams
from pipeline.embedding.embedder import ShardEmbedder, fitting_batch
from pipeline.embedding.shard_records import write_record
from pipeline.embedding.table_embedder import TableEmbedder
from pipeline.runtime.device import pick_device
from pipeline.runtime.node import ready_node
from pipeline.teachers.load import Teacher, load_teacher
from pipeline.teachers.precomputed import PrecomputedTeacher


@dataclass(frozen=True)
class ShardTask:
    """A teacher shard to compute.

    Attributes:
        split: Of the data.
        images: Folder of the image shards of the split.
        shard: The image shard.
        out: Folder of the teacher shards of the split.
    """

    split: str
    images: ShardFolder
    shard: Shard
    out: ShardFolder

    @property
    def name(self) -> str:
        """Names the shard in progress and error messages."""
        return f"{self.split}/{self.shard.name}"

    @property
    def size(self) -> int:
        """Number of images of the shard."""
        return self.shard.samples


@dataclass(frozen=True)
class EmbedConfig:
    """Configuration of every worker; picklable.

    Attributes:
        params: Views and precision.
        teacher: Folder of the teacher.
        use_gpu: See `pick_device`.
        batch: Views a forward pass, or `auto` (see `fitting_batch`).
        threads: CPU threads of each worker; None leaves torch as it is.
        classes: Names of the objects that regions may show.
    """

    params: EmbedParams
    teacher: Path
    use_gpu: bool | str
    batch: int | str
    threads: int | None
    classes: tuple[str, ...] = ()


class EmbedWorker:
    """Computes teacher shards in this process.

    Args:
        config: The same for all workers of a run.
    """

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    @cached_property
    def teacher(self) -> Teacher:
        """Loaded when the first shard is computed."""
        return load_teacher(self.config.teacher, pick_device(self.config.use_gpu))

    @cached_property
    def batch(self) -> int:
        """Views a forward pass, for a teacher with towers."""
        if self.config.batch == "auto":
            assert isinstance(self.teacher, TowerTeacher)
            return fitting_batch(self.teacher, self.config.params.precision)
        return int(self.config.batch)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity of the teacher, JSON types only."""
        return self.teacher.identity().to_dict()

    def embedder(self, plan: ViewPlan, regions: RegionPlan) -> ShardEmbedder | TableEmbedder:
        """The embedder for the teacher's kind."""
        if isinstance(self.teacher, PrecomputedTeacher):
            return TableEmbedder(self.teacher, plan)
        precision, threads = self.config.params.precision, torch.get_num_threads()
        decoder = self.config.params.decoder
        if decoder == "nvjpeg" and next(self.teacher.parameters()).device.type != "cuda":
            raise ConfigError("embed.decoder is nvjpeg, which needs a GPU; set it to cpu")
        return ShardEmbedder(self.teacher, plan, precision, self.batch, threads, regions, decoder)

    def run(self, task: ShardTask, on_progress: Callable[[str, int], object]) -> Shard:
        """Computes a shard, then writes its record. A run killed in between computes it again.

        Args:
            task: The shard.
            on_progress: Called with the name of the task and the number of its images embedded so
                far.

        Raises:
            DataError: The image shard is damaged.
            StorageError: The shard cannot be written.
        """
        with contextlib.ExitStack() as on_error:
            # report a damaged image shard rather than the decoding error that follows from it
            on_error.callback(task.images.verify, task.shard)
            shard = self._write_shard(task, on_progress)
            on_error.pop_all()
        config = self.config
        identity = cache_identity(self.identity, config.params, task.split, config.classes)
        write_record(task.out, task.shard, identity, shard)
        return shard

    def _write_shard(self, task: ShardTask, on_progress: Callable[[str, int], object]) -> Shard:
        params, classes = self.config.params, self.config.classes
        embedder = self.embedder(
            view_plan(self.identity, params, task.split), region_plan(params, task.split, classes)
        )
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_progress(task.name, done)

        samples = embedder.samples(task.images, task.shard, advance)
        return task.out.write(task.shard.name, samples)


class RayEmbedWorker(EmbedWorker):
    """An `EmbedWorker` as a Ray actor."""

    def __init__(self, config: EmbedConfig) -> None:
        ready_node()
        super().__init__(config)

    def place(self) -> tuple[str, str]:
        """Host name and Ray node id of its machine."""
        import ray

        return socket.gethostname(), ray.get_runtime_context().get_node_id()

    def run(self, task: ShardTask, progress: Any) -> Shard:
        """Computes a shard and reports to the `Progress` actor."""
        return super().run(task, progress.set.remote)
