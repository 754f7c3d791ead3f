"""Runs a training loop in Ray Train workers, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from kdeov.errors import DataError, KdeovError
from kdeov.training.distributed import broadcast_object
from pipeline.config.execution_params import ClusterParams
from pipeline.console import setup_logging
from pipeline.runtime.compat import lean_trainer, start_coordinator, torch_on_loopback
from pipeline.runtime.node import ready_node
from pipeline.runtime.ray_session import (
    PREEMPTION,
    gpus_of_ray,
    one_line_errors_of_ray,
    ray_session,
    unwrap_user_error,
)
from pipeline.storage.checked import checked_json, parse_checked_json
from pipeline.storage.storage import Storage

logger = logging.getLogger(__name__)

RESIZE_S = 60.0  # how often Ray looks whether there is room for more workers
ROOM_S = 50.0  # between checkpoints that are due to room for more
FLAKY_AFTER = 2  # deaths of workers on one machine, from which on it is named


class WorkerConfig(Protocol):
    """Settings of a loop: a dataclass of plain values that can be sent to workers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def run(self) -> Storage: ...

    @property
    def cluster(self) -> ClusterParams: ...


C = TypeVar("C", bound=WorkerConfig)
Loop = Callable[[C, Callable[[dict[str, float]], None], Callable[[], bool]], None]
"""The loop of one rank: its config, the report of an epoch, and whether a checkpoint is due."""


def train_on_ray(
    loop: Loop[C],
    config: C,
    name: str,
    report: Callable[[dict[str, float]], object],
) -> None:
    """Runs a training loop in Ray workers, to the end.

    Args:
        loop: The loop of every rank.
        config: Settings of the loop, and how many workers of which kind.
        name: Name of the run.
        report: Called with rank 0's report of every epoch, in Ray's controller.

    Raises:
        KdeovError: Training stopped for a reason that the user can fix.
    """
    cluster = config.cluster
    with ray_session(cluster.max_workers), one_line_errors_of_ray(), _own_sigint_handler():
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        alone = cluster.mode == "local"  # on this machine, in a Ray that ends with this process
        gpus = gpus_of_ray(cluster.use_gpu)
        use_gpu = cluster.use_gpu is True or gpus >= cluster.min_workers
        logger.info(
            "training on %s Ray workers, %s",
            " to ".join(map(str, dict.fromkeys([cluster.min_workers, cluster.max_workers]))),
            "one GPU each" if use_gpu else "CPUs",
        )
        # plain dictionaries, because Ray's types are those of its older version
        scaling: dict[str, Any] = {
            "num_workers": cluster.num_workers,
            "use_gpu": use_gpu,
            "elastic_resize_monitor_interval_s": RESIZE_S,
        }
        if alone:
            start_coordinator()
        deaths = FailureTracker(config.run, cluster.max_failures)
        (lean_trainer() if alone else TorchTrainer)(
            ray_worker,
            # set here, because Ray does not hide GPUs from workers that have none
            train_loop_config={
                "loop": loop,
                "config": replace(config, cluster=cluster.model_copy(update={"use_gpu": use_gpu})),
            },
            torch_config=torch_on_loopback() if alone else None,
            scaling_config=ScalingConfig(**scaling),
            run_config=RunConfig(
                # unique, because Ray silently resumes a run of the same name; KDEOV resumes from
                # its own checkpoints
                name=f"{name}-{time.time_ns()}",
                **(config.run / "ray").for_ray(),
                failure_config=FailureConfig(max_failures=cluster.max_failures),
                callbacks=[_epoch_callback(report, deaths)],
            ),
        ).fit()


@contextlib.contextmanager
def _own_sigint_handler() -> Iterator[None]:
    """Restores this process's handler of Ctrl-C afterwards: Ray Train leaves its own, which would
    swallow the next Ctrl-C.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _epoch_callback(report: Callable[[dict[str, float]], object], deaths: FailureTracker) -> Any:
    from ray.train import UserCallback

    class EpochCallback(UserCallback):
        """Runs in Ray's controller, which outlives workers: one writer for all of them."""

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            report(metrics[0])

        def after_exception(
            self, run_context: Any, worker_exceptions: dict[int, Exception]
        ) -> None:
            setup_logging()
            deaths.count(worker_exceptions)

    return EpochCallback()


class FailureTracker:
    """Counts how often training was restarted, and names the machine that is to blame.

    Args:
        run: Folder of the run, where each worker records its machine.
        limit: Deaths after which training stops.
    """

    def __init__(self, run: Storage, limit: int) -> None:
        self.run, self.limit = run, limit
        self.seen = 0
        self.machines: Counter[str] = Counter()

    def count(self, errors: dict[int, Exception]) -> None:
        """Counts the errors of workers, by rank, as one death at most.

        Raises:
            KdeovError: A user error, which a retry would meet again; or too many deaths.
            StorageError: The records of the workers' machines cannot be read.
        """
        for error in errors.values():
            if mistake := unwrap_user_error(error):
                raise mistake
        # of the others, ranks lost the connection to the one that died
        dead = {rank: e for rank, e in errors.items() if _is_death(e)} or errors
        if any(getattr(_cause(error), "preempted", False) for error in dead.values()):
            logger.warning("a machine was taken away; training goes on from the last checkpoint")
            return
        self.seen += 1
        places = {rank: worker_place(self.run, rank) for rank in dead}
        self.machines.update(set(places.values()))
        what = "; ".join(
            f"worker {rank} on {places[rank]}: {_first_line(error)}" for rank, error in dead.items()
        )
        sick = [f"{place} lost {n}" for place, n in self.machines.items() if n >= FLAKY_AFTER]
        hint = f" ({', '.join(sick)}: look at it, or take it out)" if sick else ""
        if self.seen > self.limit:
            raise KdeovError(
                f"training stopped after {self.seen} deaths, more than cluster.max_failures = "
                f"{self.limit} allows; the last: {what}{hint}; `dvc repro` goes on from the last "
                "checkpoint"
            )
        logger.warning(
            "death %d of %d that cluster.max_failures allows: %s%s; training goes on from the "
            "last checkpoint",
            self.seen, self.limit, what, hint,
        )  # fmt: skip


def ray_worker(settings: dict[str, Any]) -> None:
    """The training loop in a Ray worker."""
    from ray import train as ray_train

    ready_node()
    setup_logging()
    logging.getLogger().setLevel(logging.WARNING)  # Ray repeats every report to the root logger
    config: WorkerConfig = settings["config"]
    _write_place(config.run)
    watcher = PreemptionWatcher(config.cluster.max_workers, bool(config.cluster.use_gpu))
    settings["loop"](config, ray_train.report, watcher)


def worker_place(run: Storage, rank: int) -> str:
    """Name of the machine that a rank was last started on, for messages.

    Raises:
        StorageError: The storage cannot be read.
    """
    try:
        return str(read_worker(run, rank)["machine"])
    except FileNotFoundError:
        return "an unknown machine"
    except DataError as error:  # the message that this is for matters more
        return f"an unknown machine ({error})"


def read_worker(run: Storage, rank: int) -> dict[str, Any]:
    """Machine and process (`pid`) that a rank was last started as.

    Raises:
        FileNotFoundError: It was not started.
        DataError: The file is damaged, or another rank's.
        StorageError: The storage cannot be read.
    """
    name = f"workers/rank-{rank}.json"
    where, fix = run.where(name), "delete it; the next start of the rank writes it"
    worker = parse_checked_json(run.read(name), where, fix)
    if worker["rank"] != rank:
        raise DataError(f"{where}: of rank {worker['rank']}; {fix}")
    return worker


def _write_place(run: Storage) -> None:
    import ray
    from ray.train import get_context

    address = ray.util.get_node_ip_address()
    rank = get_context().get_world_rank()
    machine = f"{socket.gethostname()} ({address})"
    worker = checked_json({"rank": rank, "machine": machine, "pid": os.getpid()})
    run.write(f"workers/rank-{rank}.json", worker)


class PreemptionWatcher:
    """Whether a checkpoint is due because workers are about to be restarted: a machine will be
    preempted, or Ray will use free room for more workers. All ranks call it and get the same.

    Args:
        most: The largest number of workers.
        use_gpu: Whether each has a GPU.
    """

    def __init__(self, most: int, use_gpu: bool) -> None:
        self.most, self.kind = most, "GPU" if use_gpu else "CPU"
        self._last_room = -math.inf  # time at which there was room

    def __call__(self) -> bool:
        from ray.train import get_context, get_preemption_info

        leaving = os.environ.get(PREEMPTION) != "0" and get_preemption_info() is not None
        context = get_context()
        if context.get_world_size() == self.most:
            return leaving
        return broadcast_object(context.get_world_rank() == 0 and self._room()) or leaving

    def _room(self) -> bool:
        import ray

        now = time.monotonic()
        # Ray may have its reasons to leave it unused
        if now - self._last_room < ROOM_S or ray.available_resources().get(self.kind, 0) < 1:
            return False
        self._last_room = now
        return True


def _cause(error: Exception) -> BaseException:
    return getattr(error, "cause", None) or error


def _is_death(error: Exception) -> bool:
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) or isinstance(_cause(error), RayActorError)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:200]
