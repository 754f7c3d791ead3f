"""All checks in order, for `kdeov doctor` and for the start of a job."""

from __future__ import annotations

import logging

from kdeov.errors import KdeovError
from pipeline.artifacts.identity import read_teacher_identity
from pipeline.artifacts.run import runs_storage
from pipeline.cluster.driver import STAGES_WITH_WORKERS
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor import checkout, disk, machines, storages, tracker, training
from pipeline.doctor.check import Check, errors, report_errors
from pipeline.doctor.node import Questions
from pipeline.doctor.nodes import Survey, connected_to_ray, survey, survey_by_job
from pipeline.doctor.shards import find_shards, shards

logger = logging.getLogger(__name__)

DEFAULT_DIM = 512  # width of embeddings, where there is no teacher yet


def examine(params: Params, layout: Layout, quick: bool = False) -> list[Check]:
    """Checks the checkout and all machines that this process reaches.

    Args:
        params: Params of the run.
        layout: Paths of the checkout.
        quick: Skips checks of more than some seconds: the rates of data loading and training.
    """
    return [
        *checkout.git(layout),
        *checkout.tools(params, layout),
        *checkout.bytecode(),
        *storages.sources(params, layout),
        *machines.local_cluster(layout),
        *examine_run(params, layout, quick),
    ]


def examine_run(
    params: Params, layout: Layout, quick: bool = False, one_process: bool = False
) -> list[Check]:
    """Checks machines, storages, data and MLflow; needs no git.

    The data rate is measured by jobs of a cluster, never from outside the cluster.

    Args:
        params: Params of the run.
        layout: Paths of the checkout.
        quick: Skips checks of more than some seconds.
        one_process: Whether the run is one process that trains nothing, as an evaluation, which
            needs neither a whole teacher nor MLflow.
    """
    checks: list[Check] = []
    existing, wanted, found = None, disk.Needs({}, 0), Survey([], {})
    with storages.probe_in(list(storages.storage_names(params))) as (probe, wrong):
        if params.data.storage not in wrong:
            with report_errors("shards", checks):
                existing = find_shards(params, layout)
        with report_errors("disk", checks):
            manifests = existing.manifests if existing else {}
            runs = None if one_process else runs_storage(params, layout).folder
            wanted = disk.needs(params, layout, runs, _dim(layout), manifests)
        with report_errors("cluster", checks):
            questions = Questions(
                storages=tuple(a for a in storages.storage_names(params) if a not in wrong),
                probe=probe,
                shard_storage=params.data.storage or "",
                shards=existing.sample() if existing else (),
                disk_paths=tuple(wanted.disk),
            )
            found = _survey(params, layout, questions)
    checks += [
        *machines.consistency(found),
        *machines.clocks(found.nodes),
        *machines.devices(found.nodes, params.cluster, one_process),
        *machines.ray(params.cluster),
        *disk.disks(found.nodes, wanted),
        *disk.shared_memory(found.nodes, wanted, params.cluster),
        *storages.storages(params, found.nodes, wrong),
        *(shards(existing, found.nodes) if existing else []),
    ]
    if one_process:
        return checks
    checks += storages.teacher(layout)
    if existing and layout.embeddings / "train" in existing.manifests:
        checks += training.training_plan(params, layout)
        if not (quick or _on_remote_cluster(params) or errors(checks)):
            checks += training.data_rate(params, layout, found.nodes)
    return checks + tracker.mlflow(params, layout)


def preflight(params: Params, layout: Layout, stage: str = "distill") -> None:
    """Checks all nodes of the cluster before the job of a stage starts, and logs warnings.

    Args:
        params: Params of the run.
        layout: Folder of the job.
        stage: Name of the stage; rates are measured for `distill` alone.

    Raises:
        KdeovError: At least one check is an error; the text names all of them.
    """
    one_process = stage not in STAGES_WITH_WORKERS
    if stage == "prepare":  # which needs no GPU, no teacher and no MLflow
        cluster = params.cluster.model_copy(update={"use_gpu": False})
        params, one_process = params.model_copy(update={"cluster": cluster}), True
    checks = examine_run(params, layout, stage != "distill", one_process)
    if stage == "distill":
        checks += storages.class_names(params, layout)
    for check in checks:
        if check.verdict != "error":
            level = logging.WARNING if check.verdict == "warning" else logging.INFO
            logger.log(level, "%s: %s", check.name, check.text)
    if found := errors(checks):
        lines = [f"{check.name}: {check.text}" for check in found]
        count = f", {len(lines)} errors" if len(lines) > 1 else ""
        raise KdeovError(f"nothing was started{count}: {' | '.join(lines)}")


def _on_remote_cluster(params: Params) -> bool:
    """Whether the run goes to a Ray cluster that this process is not connected to."""
    return params.cluster.mode == "cluster" and not connected_to_ray()


def _survey(params: Params, layout: Layout, questions: Questions) -> Survey:
    if not _on_remote_cluster(params):
        return survey(questions)
    assert params.cluster.address is not None  # the schema asks for it
    return survey_by_job(params.cluster.address, layout.root, questions)


def _dim(layout: Layout) -> int:
    try:
        return int(read_teacher_identity(layout.teacher)["embed_dim"])
    except (KdeovError, KeyError, TypeError, ValueError):  # reported by `storages.teacher`
        return DEFAULT_DIM
