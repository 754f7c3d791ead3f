"""What one machine of a run is like: plain facts, gathered there and judged elsewhere."""

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
from pipeline.storage.files import digest, sha256_file
from pipeline.storage.storage import open_storage

# what numbers, or the understanding between machines, depend on
PACKAGES = (
    "torch", "torchvision", "ray", "webdataset", "ultralytics", "clip-anytorch",
    "open_clip_torch", "timm", "numpy", "pillow", "fsspec", "s3fs",
)  # fmt: skip
SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 10.0  # a person waits: a storage that fails for so long is told of
UNSEEN = "what another machine has just written there is not seen"


@dataclass(frozen=True)
class Questions:
    """What to look at, besides the machine itself; the same for all machines.

    Attributes:
        storages: Addresses to read from and write to.
        probe: Name, and content, of a file that whoever asks has written to each storage.
        shard_storage: Where the shards lie of which some are looked at.
        shards: Name and bytes of those.
        rooms: Places whose free space counts.
    """

    storages: tuple[str, ...] = ()
    probe: str = ""
    shard_storage: str = ""
    shards: tuple[tuple[str, int], ...] = ()
    rooms: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """Attributes: what it is called, and whether it computes in bfloat16."""

    name: str
    bfloat16: bool


@dataclass(frozen=True)
class NodeFacts:
    """What a machine is like.

    Attributes:
        name: For people.
        versions: Of Python and the packages that matter; those that are absent are left out.
        code: Digest of this project's code.
        cpus: Cores that processes may use here, or that Ray gives out.
        gpus: What torch sees.
        gpus_of_ray: How many Ray gives out; None where Ray is not running.
        rooms: Free bytes at each place.
        shared_memory: Free bytes of it; None where the system has none.
        storages: What is wrong with a storage, by its address; those that serve are left out.
        shards: Shards that are missing, or what else is wrong with them.
        clock: Seconds that it is ahead of whoever asks.
        clock_error: Seconds that `clock` may be wrong.
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""
    cpus: int = 1
    gpus: tuple[Gpu, ...] = ()
    gpus_of_ray: int | None = None
    rooms: dict[Path, int] = field(default_factory=dict)
    shared_memory: int | None = None
    storages: dict[str, str] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    clock: float = 0.0
    clock_error: float = 0.0

    @property
    def usable_gpus(self) -> int:
        """How many a run can have here."""
        return len(self.gpus) if self.gpus_of_ray is None else self.gpus_of_ray


def look(questions: Questions, name: str) -> NodeFacts:
    """Looks at this machine; leaves nothing behind.

    Args:
        questions: What to look at.
        name: Of the machine.
    """
    storages = {address: try_storage(address, questions.probe) for address in questions.storages}
    return NodeFacts(
        name=name,
        versions=versions(),
        code=project_code(),
        cpus=len(os.sched_getaffinity(0)),
        gpus=gpus(),
        rooms={room: free_bytes(room) for room in questions.rooms},
        shared_memory=free_bytes(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        storages={address: wrong for address, wrong in storages.items() if wrong},
        shards=tuple(_wrong_shards(questions)),
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def project_code() -> str:
    """A digest of the modules that this process imports."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(
        path for package in ("kdeov", "pipeline") for path in root.glob(f"{package}/**/*.py")
    )
    return digest({str(path.relative_to(root)): sha256_file(path) for path in files})[:12]


def gpus() -> tuple[Gpu, ...]:
    """What torch sees here."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(Gpu(properties.name, properties.major >= 8))
    return tuple(found)


def free_bytes(place: Path) -> int:
    """Of the disk that a place is, or will be, on."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def temporary() -> Path:
    """Where this machine keeps what is not for long."""
    return Path(tempfile.gettempdir())


def write_probe(address: str, probe: str) -> str:
    """Writes the file that every machine should then see; returns what is wrong, if anything."""
    storage = open_storage(address, PATIENCE_S)
    if storage.folder is not None and not storage.folder.is_dir():
        return f"{address} is not there"
    try:
        storage.write(probe, probe.encode())
    except KdeovError as error:
        return str(error)
    return ""


def try_storage(address: str, probe: str) -> str:
    """Reads the probe, and writes and deletes a file of its own; returns what is wrong, if
    anything.
    """
    storage = open_storage(address, PATIENCE_S)
    own = f"{probe}-{os.getpid()}-{time.time_ns()}"
    try:
        if storage.read(probe) != probe.encode():
            return UNSEEN
        storage.write(own, b"")
        storage.delete(own)
    except FileNotFoundError:
        return UNSEEN
    except KdeovError as error:
        return str(error)
    return ""


def _wrong_shards(questions: Questions) -> list[str]:
    if not questions.shards:
        return []
    storage = open_storage(questions.shard_storage, PATIENCE_S)
    wrong = []
    for name, size in questions.shards:
        try:
            found = storage.size(name)
        except KdeovError as error:
            return [str(error)]
        if found != size:
            wrong.append(f"{storage.where(name)} is {'missing' if found is None else 'damaged'}")
    return wrong
