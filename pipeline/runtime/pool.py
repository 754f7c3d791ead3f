"""A pool of Ray actors that share a queue of tasks.

Machines come and go: a task whose worker died returns to the queue, the other workers go on, and a
new worker joins when a machine has room for it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from kdeov.errors import KdeovError

logger = logging.getLogger(__name__)

POLL_S = 1.0
IDLE_WARNING_S = 60.0  # without a busy worker, after which a warning is logged
SAME_DEATH_S = 30.0  # within which deaths on one machine count as one


class Progress:
    """Counts the finished samples of unfinished tasks. It outlives the workers that report them."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}

    def set(self, name: str, count: int) -> None:
        """Sets the count of a task, which starts over where the task is run a second time."""
        self._done[name] = count

    def finish(self, name: str) -> None:
        """Removes a task, whose samples the pool counts from then on."""
        self._done.pop(name, None)

    def total(self) -> int:
        """Finished samples of all unfinished tasks."""
        return sum(self._done.values())


class Task(Protocol):
    """A piece of work.

    Attributes:
        name: Name in messages and progress, unique in the pool.
        size: Number of samples.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=Task)


class Pool(Generic[T]):
    """Runs tasks on workers, and replaces workers that die.

    Args:
        tasks: The tasks to run. One is taken when a worker has nothing to do, so they may be
            listed while others run, and memory holds those of the workers alone.
        kind: Ray's actor class, with the resources that a worker needs.
        config: The argument of the actor's constructor.
        workers: Number of workers.
        limit: Number of deaths that the pool survives.
    """

    def __init__(
        self, tasks: Iterable[T], kind: Any, config: Any, workers: int, limit: int
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.kind, self.config, self.limit = kind, config, limit
        self._tasks, self._returned = iter(tasks), deque[T]()
        # on this machine: the count would be lost with another one
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        kind_of_progress: Any = ray.remote(Progress)
        self.progress = kind_of_progress.options(num_cpus=0, scheduling_strategy=here).remote()
        self.deaths = 0
        self._places: dict[Any, tuple[str, str]] = {}
        self._last_death: dict[str, float] = {}  # by machine
        self._idle: list[Any] = []
        # pending calls: a worker that starts (no task), or one that runs a task
        self._waiting: dict[Any, tuple[Any, T | None]] = {}
        for _ in range(workers):
            self._start()

    def run(self, on_progress: Callable[[int], object]) -> Iterator[tuple[T, Any]]:
        """Runs all tasks.

        Args:
            on_progress: Called with the number of finished samples.

        Yields:
            Each task with its result, in any order.

        Raises:
            KdeovError: A task failed, or workers died more often than the limit.
        """
        import ray
        from ray.exceptions import RayActorError

        finished, worked = 0, time.monotonic()
        task = self._next()
        while task is not None or self._busy:
            while task is not None and self._idle:
                self._give(self._idle.pop(), task)
                task = self._next()
            if self._busy:
                worked = time.monotonic()
            elif time.monotonic() - worked > IDLE_WARNING_S:
                worked = time.monotonic()
                logger.warning("no machine has room for a worker; waiting for one")
            done, _ = ray.wait(list(self._waiting), timeout=POLL_S)
            on_progress(finished + ray.get(self.progress.total.remote()))
            for reference in done:
                worker, given = self._waiting.pop(reference)
                try:
                    answer = ray.get(reference)
                except RayActorError as error:
                    self._died(worker, given, error)
                    continue
                self._idle.append(worker)
                if given is None:
                    self._places[worker] = answer
                    continue
                self.progress.finish.remote(given.name)
                finished += given.size
                yield given, answer
            task = self._next() if task is None else task

    @property
    def _busy(self) -> bool:
        """Whether a worker runs a task."""
        return any(task is not None for _, task in self._waiting.values())

    def _next(self) -> T | None:
        """A task to run: one whose worker died, or else a new one; None when there is none now."""
        return self._returned.popleft() if self._returned else next(self._tasks, None)

    def _start(self) -> None:
        worker = self.kind.remote(self.config)
        self._waiting[worker.place.remote()] = (worker, None)

    def _give(self, worker: Any, task: T) -> None:
        self._waiting[worker.run.remote(task, self.progress)] = (worker, task)

    def _died(self, worker: Any, task: T | None, error: Exception) -> None:
        place, node = self._places.pop(worker, ("an unknown machine", ""))
        now = time.monotonic()
        # a machine that fails ends all of its workers at once
        if getattr(error, "preempted", False) or now - self._last_death.get(node, 0) < SAME_DEATH_S:
            logger.warning("a worker on %s was lost with its machine; the others go on", place)
        else:
            self._count(place, task, error)
        if node:
            self._last_death[node] = now
        if task is not None:
            self.progress.finish.remote(task.name)
            self._returned.appendleft(task)
        self._start()

    def _count(self, place: str, task: T | None, error: Exception) -> None:
        self.deaths += 1
        what = f"a worker on {place} died" + (f" at {task.name}" if task else "")
        if self.deaths > self.limit:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise KdeovError(
                f"{what} ({reason}), death {self.deaths}, more than cluster.max_failures = "
                f"{self.limit} allows; check that machine, then run the stage again, which keeps "
                "finished shards"
            )
        logger.warning(
            "%s, death %d of %d that cluster.max_failures allows; the others go on",
            what, self.deaths, self.limit,
        )  # fmt: skip
