"""Who makes teacher shards: this process, or Ray actors, one a device, that share a queue."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdeov.errors import KdeovError
from kdeov.teacher import TowerTeacher
from kdeov.views import ViewPlan
from pipeline.cluster.node import ready_node
from pipeline.device import pick_device
from pipeline.embed_notes import write_note
from pipeline.embedder import ShardEmbedder, fitting_batch
from pipeline.identity import cache_identity, view_plan
from pipeline.on_ray import one_line_errors_of_ray, ray_session
from pipeline.params import ClusterParams, EmbedParams
from pipeline.precomputed import PrecomputedTeacher
from pipeline.shard_folder import ShardFolder
from pipeline.shards import Shard
from pipeline.table_embedder import TableEmbedder
from pipeline.teacher import Teacher, load_teacher

logger = logging.getLogger(__name__)


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
        try:
            made = self._make(job, told)
        except Exception:
            # where pictures are damaged, that comes first, and not what a library says of it
            job.images.verify(job.shard, "prepare")
            raise
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


def make_shards(
    jobs: list[Job],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    told: Callable[[int], object],
) -> Iterator[tuple[Job, Shard]]:
    """Makes shards where `cluster.mode` says, in any order.

    Args:
        jobs: The shards.
        params: Views and precision.
        cluster: Where.
        teacher: Folder of the teacher.
        told: Hears how many pictures are done in all.

    Yields:
        Each job with the shard that it made.
    """
    if cluster.mode == "inline":
        finished = 0
        worker = EmbedWorker(Crew(params, teacher, cluster.use_gpu, cluster.embed_batch, None))
        for job in jobs:
            before = finished
            yield job, worker.make(job, lambda _, done: told(before + done))  # noqa: B023
            finished += job.shard.samples
        return
    with ray_session(cluster.most_workers), one_line_errors_of_ray():
        yield from _make_on_ray(jobs, params, cluster, teacher, told)


class Progress:
    """Counts the pictures of unfinished shards; outlives the workers that tell it."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}

    def set(self, name: str, count: int) -> None:
        """A shard that is made a second time starts over."""
        self._done[name] = count

    def finish(self, name: str) -> None:
        """Whoever asked for the shard has it."""
        self._done.pop(name, None)

    def total(self) -> int:
        return sum(self._done.values())


def _make_on_ray(
    jobs: list[Job],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    told: Callable[[int], object],
) -> Iterator[tuple[Job, Shard]]:
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if cluster.use_gpu else 0
    if cluster.use_gpu is True and not gpus:
        raise KdeovError("cluster.use_gpu is true and Ray has no GPU; set it to auto or false")
    count = min(len(jobs), gpus or cluster.most_workers)
    cpus = max(1, int(resources["CPU"]) // count)
    logger.info("embedding on Ray, %s: %d", "one worker a GPU" if gpus else "workers", count)
    crew = Crew(params, teacher, bool(gpus), cluster.embed_batch, cpus)
    actor = ray.remote(RayEmbedWorker).options(
        num_cpus=cpus,
        num_gpus=1 if gpus else 0,
        max_restarts=cluster.max_failures,
        max_task_retries=cluster.max_failures,
    )
    progress: Any = ray.remote(Progress).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    idle: list[Any] = [actor.remote(crew) for _ in range(count)]
    queue: deque[Job] = deque(jobs)
    busy: dict[Any, tuple[Any, Job]] = {}
    finished = 0
    while queue or busy:
        while queue and idle:
            worker, job = idle.pop(), queue.popleft()
            busy[worker.make.remote(job, progress)] = (worker, job)
        done, _ = ray.wait(list(busy), timeout=1)
        told(finished + ray.get(progress.total.remote()))
        for reference in done:
            worker, job = busy.pop(reference)
            idle.append(worker)
            made = ray.get(reference)
            progress.finish.remote(job.name)
            finished += job.shard.samples
            yield job, made


class RayEmbedWorker(EmbedWorker):
    """An `EmbedWorker` as a Ray actor."""

    def __init__(self, crew: Crew) -> None:
        ready_node()
        super().__init__(crew)

    def make(self, job: Job, progress: Any) -> Shard:
        """Makes a shard and tells the `Progress` actor of it."""
        return super().make(job, progress.set.remote)
