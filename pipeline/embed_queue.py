"""Who makes teacher shards: this process, or Ray actors, one a device, that share a queue.

Machines come and go: a shard whose worker died goes back to the queue, the others go on, and a new
worker joins them when there is room for it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.cluster.node import on_cluster, ready_node
from pipeline.embed_workers import Crew, EmbedWorker, Job
from pipeline.on_ray import gpus_of_ray, one_line_errors_of_ray, ray_session, share_machines
from pipeline.params import EmbedParams
from pipeline.place_params import ClusterParams
from pipeline.shards import Shard

logger = logging.getLogger(__name__)

POLL_S = 1.0
SILENT_S = 60.0  # without a worker at work, after which it is said
TOGETHER_S = 30.0  # within which deaths on one machine are one


class RayEmbedWorker(EmbedWorker):
    """An `EmbedWorker` as a Ray actor."""

    def __init__(self, crew: Crew) -> None:
        ready_node()
        super().__init__(crew)

    def place(self) -> tuple[str, str]:
        """Name and Ray's id of the machine that it is on; answered when it has started."""
        import ray

        return socket.gethostname(), ray.get_runtime_context().get_node_id()

    def make(self, job: Job, progress: Any) -> Shard:
        """Makes a shard and tells the `Progress` actor of it."""
        return super().make(job, progress.set.remote)


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


class Pool:
    """Workers that start, work and die.

    Args:
        jobs: Shards to make.
        kind: Ray's actor class, with what a worker needs of a machine.
        crew: What a worker is made with.
        workers: How many there should be.
        limit: Deaths after which it gives up.
    """

    def __init__(self, jobs: list[Job], kind: Any, crew: Crew, workers: int, limit: int) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.queue, self.kind, self.crew, self.limit = deque(jobs), kind, crew, limit
        # beside this process: with another machine, what is told would be lost
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        kind_of_progress: Any = ray.remote(Progress)
        self.progress = kind_of_progress.options(num_cpus=0, scheduling_strategy=here).remote()
        self.deaths = 0
        self._places: dict[Any, tuple[str, str]] = {}
        self._last_death: dict[str, float] = {}  # by machine
        self._idle: list[Any] = []
        # what is waited for: that a worker starts, or that it has made its shard
        self._waiting: dict[Any, tuple[Any, Job | None]] = {}
        for _ in range(workers):
            self._start()

    def run(self, told: Callable[[int], object]) -> Iterator[tuple[Job, Shard]]:
        """Makes all shards, in any order.

        Raises:
            KdeovError: A shard cannot be made, or workers died too often.
        """
        import ray
        from ray.exceptions import RayActorError

        finished, left = 0, len(self.queue)
        worked = time.monotonic()
        while left:
            while self.queue and self._idle:
                self._give(self._idle.pop(), self.queue.popleft())
            if any(job for _, job in self._waiting.values()):
                worked = time.monotonic()
            elif time.monotonic() - worked > SILENT_S:
                worked = time.monotonic()
                logger.warning("no machine has room for a worker; waiting for one")
            done, _ = ray.wait(list(self._waiting), timeout=POLL_S)
            told(finished + ray.get(self.progress.total.remote()))
            for reference in done:
                worker, job = self._waiting.pop(reference)
                try:
                    answer = ray.get(reference)
                except RayActorError as error:
                    self._died(worker, job, error)
                    continue
                self._idle.append(worker)
                if job is None:
                    self._places[worker] = answer
                    continue
                self.progress.finish.remote(job.name)
                finished, left = finished + job.shard.samples, left - 1
                yield job, answer

    def _start(self) -> None:
        worker = self.kind.remote(self.crew)
        self._waiting[worker.place.remote()] = (worker, None)

    def _give(self, worker: Any, job: Job) -> None:
        self._waiting[worker.make.remote(job, self.progress)] = (worker, job)

    def _died(self, worker: Any, job: Job | None, error: Exception) -> None:
        place, node = self._places.pop(worker, ("a machine that is not known", ""))
        now = time.monotonic()
        # a machine that goes takes all of its workers along
        if getattr(error, "preempted", False) or now - self._last_death.get(node, 0) < TOGETHER_S:
            logger.warning("a worker on %s went with its machine; the others go on", place)
        else:
            self._count(place, job, error)
        if node:
            self._last_death[node] = now
        if job is not None:
            self.progress.finish.remote(job.name)
            self.queue.appendleft(job)
        self._start()

    def _count(self, place: str, job: Job | None, error: Exception) -> None:
        self.deaths += 1
        what = f"a worker on {place} died" + (f" at {job.name}" if job else "")
        if self.deaths > self.limit:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise KdeovError(
                f"{what} ({reason}), death {self.deaths}, more than cluster.max_failures = "
                f"{self.limit} allows; look at that machine, then run the stage again: finished "
                "shards are kept"
            )
        logger.warning(
            "%s, death %d of %d that cluster.max_failures allows; the others go on",
            what, self.deaths, self.limit,
        )  # fmt: skip


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

    Raises:
        KdeovError: A shard cannot be made, or workers died too often.
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


def _make_on_ray(
    jobs: list[Job],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    told: Callable[[int], object],
) -> Iterator[tuple[Job, Shard]]:
    import ray

    gpus = gpus_of_ray(cluster.use_gpu)
    workers, cpus = share_machines(min(len(jobs), gpus or cluster.most_workers), bool(gpus))
    if gpus and on_cluster():  # those that wait for room make the cluster grow, where it can
        workers = min(len(jobs), max(gpus, cluster.most_workers))
    logger.info("embedding on Ray, %s: %d", "one worker a GPU" if gpus else "workers", workers)
    crew = Crew(params, teacher, bool(gpus), cluster.embed_batch, cpus)
    kind = ray.remote(RayEmbedWorker).options(num_cpus=cpus, num_gpus=1 if gpus else 0)
    yield from Pool(jobs, kind, crew, workers, cluster.max_failures).run(told)
