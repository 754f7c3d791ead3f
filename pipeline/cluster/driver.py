"""The driver of a job: the process on the cluster's head node that runs a stage."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params, load_params
from pipeline.config.paths import Layout
from pipeline.console import setup_logging
from pipeline.runtime.job import File, Job
from pipeline.runtime.node import job_folder, mark_done, ready_node, upload_outputs
from pipeline.runtime.ray_session import (
    gpus_of_ray,
    one_line_errors_of_ray,
    ray_session,
    share_machines,
)
from pipeline.runtime.room import wait_for_room
from pipeline.runtime.run_lock import RunLock

logger = logging.getLogger(__name__)

Work = Callable[[Params, Layout], None]
Preflight = Callable[[Params, Layout, str], None]
EXIT_USER_ERROR = 65
"""Exit status of a driver whose stage raised a `KdeovError` (EX_DATAERR of sysexits.h): another
attempt would end in the same way."""
TRAINING_STAGES = ("distill", "train_boxes")
"""Stages that start `cluster.num_workers` workers, and cannot begin with fewer than its minimum."""
STAGES_WITH_WORKERS = ("prepare", "embed", *TRAINING_STAGES)
"""Stages that start Ray workers themselves; any other runs as one task on one node."""


def drive(stage: str, work: Work, preflight: Preflight) -> None:
    """Runs the stage of this process's job.

    While it runs, it renews a lock in the job's folder: so whoever looks there later can tell a job
    that was lost with the cluster's head from one that runs (`pipeline/cluster/attempt.py`).

    Args:
        stage: Its name.
        work: The stage's function.
        preflight: Checks all nodes before hours of work.

    Raises:
        KdeovError: As the stage's function and the preflight do, or no machines came.
    """
    cluster = ClusterParams.model_validate(Job.read(job_folder()).params["cluster"])
    workers = cluster.min_workers if stage in TRAINING_STAGES else 1
    with ray_session(1), one_line_errors_of_ray(), RunLock(job_folder()):
        wait_for_room(workers, stage != "prepare" and cluster.use_gpu, cluster.node_wait_s)
        root = ready_node()
        assert root is not None
        preflight(load_params(root / "params.yaml"), Layout(root), stage)
        if stage in STAGES_WITH_WORKERS:
            files = _run_here(work)
        else:
            files = _run_on_a_node(work, cluster)
            shutil.rmtree(root, ignore_errors=True)  # of this machine
        mark_done(files)


def _run_here(work: Work, use_gpu: bool | None = None) -> list[File]:
    """Runs the stage in this process and uploads its outputs; returns them."""
    root = ready_node()
    assert root is not None
    params = load_params(root / "params.yaml")
    if use_gpu is not None:
        cluster = params.cluster.model_copy(update={"use_gpu": use_gpu})
        params = params.model_copy(update={"cluster": cluster})
    work(params, Layout(root))
    files = upload_outputs(Job.read(job_folder()), root)
    shutil.rmtree(root, ignore_errors=True)
    return files


def _run_in_worker(work: Work, use_gpu: bool) -> list[File]:
    setup_logging()
    return _run_here(work, use_gpu)


def _run_on_a_node(work: Work, cluster: ClusterParams) -> list[File]:
    import ray

    use_gpu = gpus_of_ray(cluster.use_gpu) > 0
    _, cpus = share_machines(1, use_gpu)
    logger.info("on one node of the cluster, %d CPUs%s", cpus, " and a GPU" if use_gpu else "")
    task: Any = ray.remote(_run_in_worker).options(
        num_cpus=cpus, num_gpus=int(use_gpu), max_retries=cluster.max_failures
    )
    return ray.get(task.remote(work, use_gpu))
