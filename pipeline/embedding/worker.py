"""A process with a teacher, which makes teacher shards."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdeov.data.views import ViewPlan
from kdeov.teachers.base import TowerTeacher
from pipeline.artifacts.identity import cache_identity, view_plan
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
    """A teacher shard to make.

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
        """For progress."""
        return f"{self.split}/{self.shard.name}"

    @property
    def size(self) -> int:
        """Images of the shard."""
        return self.shard.samples


@dataclass(frozen=True)
class EmbedConfig:
    """What every worker needs; plain values, so that it can be sent.

    Attributes:
        params: Views and precision.
        teacher: Folder of the teacher.
        use_gpu: See `pick_device`.
        batch: Views at once, or `auto`.
        threads: CPU threads of each worker; None leaves torch as it is.
    """

    params: EmbedParams
    teacher: Path
    use_gpu: bool | str
    batch: int | str
    threads: int | None


class EmbedWorker:
    """One process with a teacher.

    Args:
        config: What it needs.
    """

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    @cached_property
    def teacher(self) -> Teacher:
        """Loaded with the first shard."""
        return load_teacher(self.config.teacher, pick_device(self.config.use_gpu))

    @cached_property
    def batch(self) -> int:
        """Views at once, for a teacher with towers."""
        if self.config.batch == "auto":
            assert isinstance(self.teacher, TowerTeacher)
            return fitting_batch(self.teacher, self.config.params.precision)
        return int(self.config.batch)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The teacher's."""
        return self.teacher.identity().to_dict()

    def embedder(self, plan: ViewPlan) -> ShardEmbedder | TableEmbedder:
        """What turns image samples into teacher samples."""
        if isinstance(self.teacher, PrecomputedTeacher):
            return TableEmbedder(self.teacher, plan)
        precision, threads = self.config.params.precision, torch.get_num_threads()
        return ShardEmbedder(self.teacher, plan, precision, self.batch, threads)

    def make(self, task: ShardTask, on_progress: Callable[[str, int], object]) -> Shard:
        """Makes a shard, then its note. Killed before the note, the shard is made again.

        Args:
            task: The shard.
            told: Hears the task's name and how many of its images are done.

        Raises:
            KdeovError: The image shard is damaged, or the shard cannot be written.
        """
        with contextlib.ExitStack() as fault:
            # where images are damaged, that comes first, and not what a library says of it
            fault.callback(task.images.verify, task.shard)
            made = self._make(task, on_progress)
            fault.pop_all()
        identity = cache_identity(self.identity, self.config.params, task.split)
        write_record(task.out, task.shard, identity, made)
        return made

    def _make(self, task: ShardTask, on_progress: Callable[[str, int], object]) -> Shard:
        embedder = self.embedder(view_plan(self.identity, self.config.params, task.split))
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
        """Name and Ray's id of the machine that it is on; answered when it has started."""
        import ray

        return socket.gethostname(), ray.get_runtime_context().get_node_id()

    def make(self, task: ShardTask, progress: Any) -> Shard:
        """Makes a shard and tells the `Progress` actor of it."""
        return super().make(task, progress.set.remote)
