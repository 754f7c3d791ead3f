"""The process of a job that runs its stage, on the cluster's head node."""

from __future__ import annotations

import importlib
import logging
import shutil
from collections.abc import Callable
from typing import Any

from pipeline.cluster.job import File, Job
from pipeline.cluster.node import conclude, job_folder, ready_node, upload_outputs
from pipeline.console import setup_logging
from pipeline.layout import Layout
from pipeline.on_ray import gpus_of_ray, one_line_errors_of_ray, ray_session, share_machines
from pipeline.params import Params, load_params
from pipeline.place_params import ClusterParams

logger = logging.getLogger(__name__)

Work = Callable[[Params, Layout], None]
MISTAKE = 65
"""Exit status of a driver whose stage ended with a line that a person has to read (EX_DATAERR):
another attempt would end in the same way."""
SPREADS_ITSELF = ("embed", "distill")
"""Stages that use the workers of Ray; others run as a whole on one of them."""


def drive(stage: str, work: Work) -> None:
    """Runs the stage of this process's job.

    Raises:
        KdeovError: As the stage does.
    """
    with ray_session(1), one_line_errors_of_ray():
        if stage in SPREADS_ITSELF:
            _preflight(stage)
            files = _run_here(work)
        else:
            files = _run_on_a_node(work)
    conclude(files)


def _preflight(stage: str) -> None:
    """Looks at all nodes before hours are spent on them."""
    root = ready_node()
    assert root is not None
    # by name: no stage depends on all that a doctor knows of
    doctor = importlib.import_module("pipeline.doctor.examine")
    doctor.preflight(load_params(root / "params.yaml"), Layout(root), quick=stage != "distill")


def _run_here(work: Work, use_gpu: bool | None = None) -> list[File]:
    """The stage in this process; returns its outputs, which are in the storage then."""
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


def _run_on_a_node(work: Work) -> list[File]:
    import ray

    cluster = ClusterParams.model_validate(Job.read(job_folder()).params["cluster"])
    use_gpu = gpus_of_ray(cluster.use_gpu) > 0
    _, cpus = share_machines(1, use_gpu)
    logger.info("on one node of the cluster, %d CPUs%s", cpus, " and a GPU" if use_gpu else "")
    task: Any = ray.remote(_run_in_worker).options(
        num_cpus=cpus, num_gpus=int(use_gpu), max_retries=cluster.max_failures
    )
    return ray.get(task.remote(work, use_gpu))
