"""All checks in order, for a person (`kdeov doctor`) and at the start of a job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.doctor import checkout, machines, places, room, tracker, training
from pipeline.doctor.by_job import survey_by_job
from pipeline.doctor.check import Check, complaints
from pipeline.doctor.node import NodeFacts, Questions
from pipeline.doctor.nodes import on_ray, survey
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.shards import MANIFEST
from pipeline.storage import Storage
from pipeline.teacher import read_teacher_identity

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
        *places.sources(params, layout),
        *examine_run(params, layout, quick),
    ]


def examine_run(params: Params, layout: Layout, quick: bool = False) -> list[Check]:
    """Looks at machines, storages, data and MLflow: what counts where no git is.

    How fast data come is not measured on a cluster from outside of it; its jobs do so.
    """
    addresses = list(places.storage_names(params))
    wanted = room.needs(params, layout, _runs(params, layout), _dim(layout))
    checks: list[Check] = []
    nodes: list[NodeFacts] = []
    with places.probe_in(addresses) as (probe, wrong), complaints("cluster", checks):
        questions = Questions(
            storages=tuple(address for address in addresses if address not in wrong),
            probe=probe,
            shard_storage=params.data.storage or "",
            shards=places.sampled_shards(params, layout),
            rooms=tuple(wanted.rooms),
        )
        elsewhere = params.cluster.mode == "cluster" and not on_ray()
        if elsewhere:
            assert params.cluster.address is not None  # the schema asks for it
            found = survey_by_job(params.cluster.address, layout.root, questions)
        else:
            found = survey(questions)
        nodes = found.nodes
        checks += machines.alike(found)
    if nodes:
        ray = params.cluster.mode != "inline"
        checks += [
            *machines.clocks(nodes),
            *machines.devices(nodes, params.cluster),
            *room.disks(nodes, wanted),
            *room.shared_memory(nodes, wanted, params.cluster.most_workers, ray),
        ]
    checks += [
        *places.storages(params, nodes, wrong),
        *places.shards(params, layout, nodes),
        *places.teacher(layout),
    ]
    if (layout.embeddings / "train" / MANIFEST).is_file():
        checks += training.fits(params, layout)
        if not (quick or elsewhere or faults(checks)):
            checks += training.data_rate(params, layout, nodes)
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


def _dim(layout: Layout) -> int:
    try:
        return int(read_teacher_identity(layout.teacher)["embed_dim"])
    except (KdeovError, KeyError, TypeError, ValueError):  # told by `places.teacher`
        return USUAL_DIM


def _runs(params: Params, layout: Layout) -> Path | None:
    """The folder of checkpoints, where they do not go to a bucket."""
    address = params.cluster.storage
    if address is None and params.cluster.mode == "cluster":
        address = params.data.storage
    return layout.runs if address is None else Storage(address).folder
