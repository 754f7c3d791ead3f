"""Makes the shards of a plan in this process or on Ray, as `cluster.mode` says."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from pipeline.artifacts.dataset import SPLITS
from pipeline.config.execution_params import ClusterParams
from pipeline.prepare.identity import versions
from pipeline.prepare.images import without_warnings
from pipeline.prepare.plan import ShardPlan
from pipeline.prepare.readers.base import Rejected
from pipeline.prepare.shard_records import ShardResult
from pipeline.prepare.worker import PrepareConfig, PrepareWorker, RayPrepareWorker, ShardTask
from pipeline.runtime.node import on_cluster
from pipeline.runtime.pool import Pool
from pipeline.runtime.ray_session import one_line_errors_of_ray, ray_session

logger = logging.getLogger(__name__)

RAY_START_S = 8.0  # from its start on this machine to the first sample of a worker
NUM_PROBES = 9  # inputs that are timed


def make_shards(
    plan: ShardPlan,
    tasks: Iterable[ShardTask],
    cluster: ClusterParams,
    workers: int | None,
    on_progress: Callable[[int], object],
) -> Iterator[tuple[ShardTask, ShardResult]]:
    """Makes shards, each with its record.

    Args:
        plan: All shards.
        tasks: Those of them that are to be made; listed while others are made.
        cluster: Where to run. In mode `local`, Ray is started where it saves time.
        workers: Number of workers on Ray; None is one a CPU.
        on_progress: Called with the number of inputs that are done, over all tasks.

    Yields:
        Each task with its result, in the order in which they finish.

    Raises:
        KdeovError: A shard cannot be made, or workers died more than `cluster.max_failures` times.
    """
    config = PrepareConfig(plan.source.make, versions(), plan.path)
    here = cluster.mode == "local" and workers is None and not on_cluster() and not is_long(plan)
    if cluster.mode == "inline" or here:
        done, worker = 0, PrepareWorker(config)
        for task in tasks:
            before = done
            yield task, worker.run(task, lambda _, inputs: on_progress(before + inputs))  # noqa: B023
            done += task.size
            on_progress(done)
        return
    with ray_session(cluster.max_workers), one_line_errors_of_ray():
        yield from _on_ray(plan, tasks, config, cluster, workers, on_progress)


def is_long(plan: ShardPlan) -> bool:
    """Whether workers on all CPUs save more time than Ray takes to start, by the first inputs."""
    seconds = []
    inputs = chain.from_iterable(plan.source.inputs[split] for split in SPLITS)
    for item in islice(inputs, NUM_PROBES):
        start = time.perf_counter()
        if not isinstance(item, Rejected):
            with without_warnings():
                plan.source.make(item)
        seconds.append(time.perf_counter() - start)
    workers = min(os.cpu_count() or 1, plan.num_shards)
    work = plan.num_inputs * statistics.median(seconds)
    return work - work / workers > RAY_START_S


def _on_ray(
    plan: ShardPlan,
    tasks: Iterable[ShardTask],
    config: PrepareConfig,
    cluster: ClusterParams,
    workers: int | None,
    on_progress: Callable[[int], object],
) -> Iterator[tuple[ShardTask, ShardResult]]:
    import ray

    if workers is None:
        workers = int(ray.cluster_resources().get("CPU", 0))
        if on_cluster():  # workers that wait for a CPU make the cluster grow, where it can
            workers = max(workers, cluster.max_workers)
    workers = max(1, min(workers, plan.num_shards))
    logger.info("preparing on Ray, workers: %d", workers)
    kind = ray.remote(RayPrepareWorker).options(num_cpus=1)
    yield from Pool(tasks, kind, config, workers, cluster.max_failures).run(on_progress)
