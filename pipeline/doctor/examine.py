"""All checks in order, for a person (`kdeov doctor`) and at the start of a job."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kdeov.errors import KdeovError
from pipeline.artifacts.identity import read_teacher_identity
from pipeline.artifacts.run import runs_storage
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor import checkout, disk, machines, storages, tracker, training
from pipeline.doctor.by_job import survey_by_job
from pipeline.doctor.check import Check, complaints
from pipeline.doctor.node import Questions
from pipeline.doctor.nodes import Survey, on_ray, survey
from pipeline.doctor.shards import find_shards, shards

logger = logging.getLogger(__name__)

USUAL_DIM = 512  # of vectors, where there is no teacher yet


def examine(params: Params, layout: Layout, quick: bool = False) -> list[Check]:
    """Looks at the checkout and at all machines that this process reaches.

    Args:
        params: Of the run.
        layout: Of the checkout.
        quick: Leaves out what takes more than some seconds: how fast data are read and trained on.
    """
    return [
        *checkout.git(layout),
        *checkout.tools(params, layout),
        *storages.sources(params, layout),
        *examine_run(params, layout, quick),
    ]


def examine_run(params: Params, layout: Layout, quick: bool = False) -> list[Check]:
    """Looks at machines, storages, data and MLflow: what counts where no git is.

    How fast data come is not measured on a cluster from outside of it; its jobs do so.
    """
    checks: list[Check] = []
    listed, wanted, found = None, disk.Needs({}, 0), Survey([], {})
    with storages.probe_in(list(storages.storage_names(params))) as (probe, wrong):
        if params.data.storage not in wrong:
            with complaints("shards", checks):
                listed = find_shards(params, layout)
        with complaints("disk", checks):
            manifests = listed.manifests if listed else {}
            wanted = disk.needs(
                params, layout, runs_storage(params, layout).folder, _dim(layout), manifests
            )
        with complaints("cluster", checks):
            questions = Questions(
                storages=tuple(a for a in storages.storage_names(params) if a not in wrong),
                probe=probe,
                shard_storage=params.data.storage or "",
                shards=listed.sample() if listed else (),
                rooms=tuple(wanted.rooms),
            )
            found = _survey(params, layout, questions)
    checks += [
        *machines.alike(found),
        *machines.clocks(found.nodes),
        *machines.devices(found.nodes, params.cluster),
        *disk.disks(found.nodes, wanted),
        *disk.shared_memory(found.nodes, wanted, params.cluster),
        *storages.storages(params, found.nodes, wrong),
        *(shards(listed, found.nodes) if listed else []),
        *storages.teacher(layout),
    ]
    if listed and layout.embeddings / "train" in listed.manifests:
        checks += training.fits(params, layout)
        if not (quick or _elsewhere(params) or faults(checks)):
            checks += training.data_rate(params, layout, found.nodes)
    return checks + tracker.mlflow(params, layout)


def preflight(params: Params, layout: Layout, quick: bool = False) -> None:
    """Looks at all nodes of the cluster before a job starts; warnings are logged.

    Raises:
        KdeovError: Something would stop the job; names all such faults.
    """
    checks = examine_run(params, layout, quick)
    for check in checks:
        tell: Callable[..., None] = logger.warning if check.verdict == "warning" else logger.info
        if check.verdict != "fault":
            tell("%s: %s", check.name, check.text)
    if found := faults(checks):
        lines = [f"{check.name}: {check.text}" for check in found]
        count = f"{len(lines)} faults: " if len(lines) > 1 else ""
        raise KdeovError(f"nothing was started, {count}{' | '.join(lines)}")


def faults(checks: list[Check]) -> list[Check]:
    """Those that would stop a run."""
    return [check for check in checks if check.verdict == "fault"]


def _elsewhere(params: Params) -> bool:
    """Whether the run's machines are those of a cluster that this process is no part of."""
    return params.cluster.mode == "cluster" and not on_ray()


def _survey(params: Params, layout: Layout, questions: Questions) -> Survey:
    if not _elsewhere(params):
        return survey(questions)
    assert params.cluster.address is not None  # the schema asks for it
    return survey_by_job(params.cluster.address, layout.root, questions)


def _dim(layout: Layout) -> int:
    try:
        return int(read_teacher_identity(layout.teacher)["embed_dim"])
    except (KdeovError, KeyError, TypeError, ValueError):  # told by `storages.teacher`
        return USUAL_DIM
