"""Facts of one machine of a run, collected on it and judged elsewhere."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.storage.files import digest, existing, sha256_file
from pipeline.storage.storage import open_storage

# packages that numbers, or messages between machines, depend on
PACKAGES = (
    "torch", "torchvision", "ray", "webdataset", "ultralytics", "clip-anytorch",
    "open_clip_torch", "timm", "numpy", "pillow", "opencv-python", "fsspec", "s3fs",
)  # fmt: skip
SHARED_MEMORY = Path("/dev/shm")
TIMEOUT_S = 10.0  # of retries on a storage: somebody waits for the answer
PROBE_MISSING = "a file that another machine has just written there is not found"


@dataclass(frozen=True)
class Questions:
    """The same questions to all machines.

    Attributes:
        storages: Addresses of storages to read and write.
        probe: Name, and content, of a file that lies in each storage.
        shard_storage: Address of the storage of `shards`.
        shards: Name and bytes of shards to look for.
        disk_paths: Paths whose free disk space is measured.
    """

    storages: tuple[str, ...] = ()
    probe: str = ""
    shard_storage: str = ""
    shards: tuple[tuple[str, int], ...] = ()
    disk_paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """Attributes: name of the model, and whether it supports bfloat16."""

    name: str
    bfloat16: bool


@dataclass(frozen=True)
class NodeFacts:
    """Facts of a machine.

    Attributes:
        name: Host name, with the node's id on Ray.
        versions: Versions of Python and of the `PACKAGES` that are installed.
        code: Digest of this project's code.
        cpus: Cores that processes may use, or that Ray assigns.
        gpus: GPUs that torch finds.
        gpus_of_ray: Number of GPUs that Ray assigns; None without Ray.
        disk_free: Free bytes, by path.
        shared_memory: Free bytes of /dev/shm; None where the system has none.
        storages: Errors of storages, by address; empty where all work.
        shards: Errors of shards: missing, damaged, or unreadable.
        clock: Seconds ahead of the machine that asks.
        clock_error: Bound on the error of `clock`, seconds.
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""
    cpus: int = 1
    gpus: tuple[Gpu, ...] = ()
    gpus_of_ray: int | None = None
    disk_free: dict[Path, int] = field(default_factory=dict)
    shared_memory: int | None = None
    storages: dict[str, str] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    clock: float = 0.0
    clock_error: float = 0.0

    @property
    def usable_gpus(self) -> int:
        """Number of GPUs that a run can have here."""
        return len(self.gpus) if self.gpus_of_ray is None else self.gpus_of_ray


def inspect_node(questions: Questions, name: str) -> NodeFacts:
    """Collects the facts of this machine; leaves nothing behind."""
    storages = {address: check_storage(address, questions.probe) for address in questions.storages}
    return NodeFacts(
        name=name,
        versions=versions(),
        code=project_code(),
        cpus=len(os.sched_getaffinity(0)),
        gpus=gpus(),
        disk_free={path: free_bytes(path) for path in questions.disk_paths},
        shared_memory=free_bytes(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        storages={address: wrong for address, wrong in storages.items() if wrong},
        shards=tuple(_wrong_shards(questions)),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the `PACKAGES` that are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def project_code() -> str:
    """Digest of all modules of the checkout that this process imports from."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(
        path for package in ("kdeov", "pipeline") for path in root.glob(f"{package}/**/*.py")
    )
    return digest({str(path.relative_to(root)): sha256_file(path) for path in files})[:12]


def gpus() -> tuple[Gpu, ...]:
    """GPUs that torch finds here."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(Gpu(properties.name, properties.major >= 8))
    return tuple(found)


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that holds a path, or will hold it."""
    return shutil.disk_usage(existing(path)).free


def temporary_folder() -> Path:
    """Folder of this machine's temporary files."""
    return Path(tempfile.gettempdir())


def write_probe(address: str, probe: str) -> str:
    """Writes the file that every machine should then find; returns the error, or an empty text."""
    storage = open_storage(address, TIMEOUT_S)
    if storage.folder is not None and not storage.folder.is_dir():
        return f"{address} does not exist"
    try:
        storage.write(probe, probe.encode())
    except KdeovError as error:
        return str(error)
    return ""


def check_storage(address: str, probe: str) -> str:
    """Reads the probe, writes and deletes another file; returns the error, or an empty text."""
    storage = open_storage(address, TIMEOUT_S)
    own = f"{probe}-{os.getpid()}-{time.time_ns()}"
    try:
        if storage.read(probe) != probe.encode():
            return PROBE_MISSING
        storage.write(own, b"")
        storage.delete(own)
    except FileNotFoundError:
        return PROBE_MISSING
    except KdeovError as error:
        return str(error)
    return ""


def _wrong_shards(questions: Questions) -> list[str]:
    if not questions.shards:
        return []
    storage = open_storage(questions.shard_storage, TIMEOUT_S)
    wrong = []
    for name, size in questions.shards:
        try:
            found = storage.size(name)
        except KdeovError as error:
            return [str(error)]
        if found != size:
            wrong.append(f"{storage.where(name)} is {'missing' if found is None else 'damaged'}")
    return wrong
