"""Checks of storages, the teacher, and the files that the first stages read."""

from __future__ import annotations

import contextlib
import importlib.util
import uuid
from collections.abc import Iterator

from kdeov.errors import KdeovError
from pipeline.artifacts.dataset import DATASET, Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, error, first_few, ok, quantity, report_errors
from pipeline.doctor.node import PROBE_MISSING, TIMEOUT_S, NodeFacts, write_probe
from pipeline.evaluation.shared.class_names import prompt_classes, read_renaming
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_teacher

DVC_PACKAGES = {"s3": "dvc-s3", "gs": "dvc-gs", "abfs": "dvc-azure"}  # to watch a bucket


@contextlib.contextmanager
def probe_in(addresses: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Writes a file into each storage, for other machines to read, and deletes it afterwards.

    Yields:
        Name of the file, and the error of each storage that cannot be written, by address.
    """
    probe = f".kdeov-doctor-{uuid.uuid4().hex}"
    wrong = {address: why for address in addresses if (why := write_probe(address, probe))}
    try:
        yield probe, wrong
    finally:
        for address in addresses:
            if address not in wrong:
                with contextlib.suppress(KdeovError):
                    open_storage(address, TIMEOUT_S).delete(probe)


def storage_names(params: Params) -> dict[str, str]:
    """The key of `params.yaml` that names each storage, by address."""
    names: dict[str, str] = {}
    for section in ("data", "cluster"):
        if address := getattr(params, section).storage:
            names.setdefault(address, f"{section}.storage")
    return names


def storages(params: Params, nodes: list[NodeFacts], wrong: dict[str, str]) -> list[Check]:
    """Checks that every machine reads and writes every storage, and sees files of the others.

    Args:
        params: Name the storages.
        nodes: Facts of the machines.
        wrong: Errors of storages on this machine, by address.
    """
    checks: list[Check] = []
    for address, key in storage_names(params).items():
        if address in wrong:
            missing = "mount or create it" if wrong[address].endswith("does not exist") else ""
            checks.append(error(key, wrong[address], missing))
            continue
        blind = [node.name for node in nodes if node.storages.get(address) == PROBE_MISSING]
        other = {
            n.name: why for n in nodes if (why := n.storages.get(address)) and why != PROBE_MISSING
        }
        if blind:
            found = f"{address} is not shared: {first_few(blind)} does not see files of other nodes"
            checks.append(error(key, found, "mount it on all nodes, or give s3://BUCKET/PREFIX"))
        for name, why in other.items():
            checks.append(error(key, f"on {name}: {why}"))
        if not blind and not other:
            where = f" by {quantity(len(nodes), 'node')}" if len(nodes) > 1 else ""
            checks.append(ok(key, f"{address} is read and written{where}"))
    return checks


def teacher(layout: Layout) -> list[Check]:
    """Checks that the teacher loads and is the one that its identity names."""
    if not layout.teacher.is_dir():
        return [ok("teacher", "none yet; `dvc repro` makes it")]
    checks: list[Check] = []
    with report_errors("teacher", checks):
        found = load_teacher(layout.teacher)
        checks.append(ok("teacher", f"{found.name}, {found.embed_dim} dimensions"))
    return checks


def sources(params: Params, layout: Layout) -> list[Check]:
    """Checks that files of the first stages exist, and that DVC can watch a bucket."""
    absent, checks, data = [], [], params.prepare.path
    if isinstance(data, str):
        package = DVC_PACKAGES[data.partition("://")[0]]
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            cure = f"write it into a file NAME.address and name that, or `pip install {package}`"
            checks.append(error("prepare.path", f"DVC cannot watch {data} without {package}", cure))
    elif not (layout.images / DATASET).is_file() and not data.exists():
        absent.append(("prepare.path", data))
    weights = params.distill.backbone_weights
    if weights is not None and not weights.is_file():
        absent.append(("distill.backbone_weights", weights))
    checks += [error(key, f"{path} does not exist", "correct the path") for key, path in absent]
    return checks + class_names(params, layout)


def class_names(params: Params, layout: Layout) -> list[Check]:
    """Checks what `require_class_names` refuses."""
    checks: list[Check] = []
    with report_errors("zero_shot.class_names", checks):
        require_class_names(params, layout)
    return checks


def require_class_names(params: Params, layout: Layout) -> None:
    """Refuses names of classes that the stage `zero_shot` would refuse, hours later.

    Args:
        params: Hold the names.
        layout: Its data set is compared with them, where it is prepared.

    Raises:
        KdeovError: The file of names or the record of the data set is damaged or missing, or the
            names do not fit the classes.
    """
    if (names := params.zero_shot.class_names) is None:
        return
    if not (layout.images / DATASET).is_file():
        read_renaming(names)
    elif classes := Dataset.read(layout.images).classes:
        prompt_classes(classes, names)
