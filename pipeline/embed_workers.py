"""A process with a teacher, which makes teacher shards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdeov.teacher import TowerTeacher
from kdeov.views import ViewPlan
from pipeline.device import pick_device
from pipeline.embed_notes import write_note
from pipeline.embedder import ShardEmbedder, fitting_batch
from pipeline.identity import cache_identity, view_plan
from pipeline.params import EmbedParams
from pipeline.precomputed import PrecomputedTeacher
from pipeline.shard_folder import ShardFolder
from pipeline.shards import Shard
from pipeline.table_embedder import TableEmbedder
from pipeline.teacher import Teacher, load_teacher


@dataclass(frozen=True)
class Job:
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


@dataclass(frozen=True)
class Crew:
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
        crew: What it needs.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        if crew.threads is not None:
            torch.set_num_threads(crew.threads)

    @cached_property
    def teacher(self) -> Teacher:
        """Loaded with the first shard."""
        return load_teacher(self.crew.teacher, pick_device(self.crew.use_gpu))

    @cached_property
    def batch(self) -> int:
        """Views at once, for a teacher with towers."""
        if self.crew.batch == "auto":
            assert isinstance(self.teacher, TowerTeacher)
            return fitting_batch(self.teacher, self.crew.params.precision)
        return int(self.crew.batch)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The teacher's."""
        return self.teacher.identity().to_dict()

    def embedder(self, plan: ViewPlan) -> ShardEmbedder | TableEmbedder:
        """What turns image samples into teacher samples."""
        if isinstance(self.teacher, PrecomputedTeacher):
            return TableEmbedder(self.teacher, plan)
        precision, threads = self.crew.params.precision, torch.get_num_threads()
        return ShardEmbedder(self.teacher, plan, precision, self.batch, threads)

    def make(self, job: Job, told: Callable[[str, int], object]) -> Shard:
        """Makes a shard, then its note. Killed before the note, the shard is made again.

        Args:
            job: The shard.
            told: Hears the job's name and how many of its pictures are done.

        Raises:
            KdeovError: The image shard is damaged, or the shard cannot be written.
        """
        with contextlib.ExitStack() as fault:
            # where pictures are damaged, that comes first, and not what a library says of it
            fault.callback(job.images.verify, job.shard, "prepare")
            made = self._make(job, told)
            fault.pop_all()
        identity = cache_identity(self.identity, self.crew.params, job.split)
        write_note(job.out, job.shard, identity, made)
        return made

    def _make(self, job: Job, told: Callable[[str, int], object]) -> Shard:
        embedder = self.embedder(view_plan(self.identity, self.crew.params, job.split))
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            told(job.name, done)

        samples = embedder.samples(job.images, job.shard, advance)
        return job.out.write(job.shard.name, samples)
