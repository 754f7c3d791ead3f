"""Judges what a run reads and where it writes: storages, teacher and weights."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

from kdeov.errors import KdeovError
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, complaints, counted, fault, listed, ok
from pipeline.doctor.node import PATIENCE_S, UNSEEN, NodeFacts, write_probe
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_teacher


@contextlib.contextmanager
def probe_in(addresses: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A file in each storage, which other machines should see; gone afterwards.

    Yields:
        Its name, and what is wrong with a storage by its address.
    """
    probe = f".kdeov-doctor-{uuid.uuid4().hex}"
    wrong = {address: why for address in addresses if (why := write_probe(address, probe))}
    try:
        yield probe, wrong
    finally:
        for address in addresses:
            if address not in wrong:
                with contextlib.suppress(KdeovError):
                    open_storage(address, PATIENCE_S).delete(probe)


def storage_names(params: Params) -> dict[str, str]:
    """The storages that params name, each with the key that names it first."""
    names: dict[str, str] = {}
    for section in ("data", "cluster"):
        if address := getattr(params, section).storage:
            names.setdefault(address, f"{section}.storage")
    return names


def storages(params: Params, nodes: list[NodeFacts], wrong: dict[str, str]) -> list[Check]:
    """Whether every machine reads and writes every storage, and sees what others write there.

    Args:
        params: They name the storages.
        nodes: The machines.
        wrong: What is wrong with a storage where this process runs, by its address.
    """
    checks = []
    for address, key in storage_names(params).items():
        if address in wrong:
            missing = "mount or make it" if wrong[address].endswith("is not there") else ""
            checks.append(fault(key, wrong[address], missing))
            continue
        unseen = [node.name for node in nodes if node.storages.get(address) == UNSEEN]
        other = {n.name: why for n in nodes if (why := n.storages.get(address)) and why != UNSEEN}
        if unseen:
            found = f"{address} is not shared: {listed(unseen)} does not see what others write"
            checks.append(fault(key, found, "mount it on all nodes, or give s3://BUCKET/PREFIX"))
        for name, why in other.items():
            checks.append(fault(key, f"on {name}: {why}"))
        if not unseen and not other:
            where = f" by {counted(len(nodes), 'node')}" if len(nodes) > 1 else ""
            checks.append(ok(key, f"{address} is read and written{where}"))
    return checks


def teacher(layout: Layout) -> list[Check]:
    """Whether the teacher is there and is the one that its identity names."""
    if not layout.teacher.is_dir():
        return [ok("teacher", "none made yet: `dvc repro` does")]
    checks: list[Check] = []
    with complaints("teacher", checks):
        found = load_teacher(layout.teacher)
        checks.append(ok("teacher", f"{found.name}, {found.embed_dim} dimensions"))
    return checks


def sources(params: Params, layout: Layout) -> list[Check]:
    """Whether there is what the first stages read."""
    absent = []
    if not (layout.images / "dataset.json").is_file() and not params.prepare.path.exists():
        absent.append(("prepare.path", params.prepare.path))
    weights = params.distill.backbone_weights
    if weights is not None and not weights.is_file():
        absent.append(("distill.backbone_weights", weights))
    return [fault(key, f"{path} is not there", "correct the path") for key, path in absent]
