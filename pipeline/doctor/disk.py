"""Judges room: on disks, against what a run writes, and in shared memory, through which loader
processes hand their batches over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shards import Manifest
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, fault, listed, ok, warning
from pipeline.doctor.node import NodeFacts, temporary
from pipeline.storage.storage import open_storage
from pipeline.training.checkpoints import MAX_CHECKPOINTS

FLOOR = 1 << 30  # bytes that any place should have: logs, packages, a student
BYTES_A_DIMENSION = 2.4  # of a stored vector, tar and checksums included
PREFETCHED = 3  # batches on their way from loader processes: two by default, one in use
RAY_STORE = 1 << 30  # bytes of shared memory below which Ray's object store goes to the disk


@dataclass(frozen=True)
class Needs:
    """What a run will take.

    Attributes:
        rooms: Bytes, by place.
        batches: Bytes of shared memory, over all workers; 0 without loader processes.
    """

    rooms: dict[Path, int]
    batches: int


def needs(
    params: Params, layout: Layout, runs: Path | None, dim: int, manifests: dict[Path, Manifest]
) -> Needs:
    """Estimates what a run will take.

    Args:
        params: Of the run.
        layout: Of the checkout.
        runs: Folder of checkpoints, where they do not go to a bucket.
        dim: Of the teacher's vectors.
        manifests: Those that are there, by their folders.

    Raises:
        KdeovError: The student cannot be built.
    """
    distill, rooms = params.distill, {temporary(): FLOOR}
    if params.cluster.mode != "cluster":
        rooms[layout.root] = FLOOR
    if runs is not None:
        rooms[runs] = rooms.get(runs, FLOOR) + checkpoint_bytes(params, dim)
    shards = (
        layout.root if params.data.storage is None else open_storage(params.data.storage).folder
    )
    if shards is not None:
        rooms[shards] = rooms.get(shards, FLOOR) + _vectors_to_come(params, layout, dim, manifests)
    image = 3 * distill.image_size**2 + 2 * 4 * dim
    loaders = params.cluster.dataloader_workers > 0
    return Needs(rooms, PREFETCHED * distill.global_batch_size * image if loaders else 0)


def checkpoint_bytes(params: Params, dim: int) -> int:
    """Of all checkpoints that lie there at once: weights, two moments of the optimizer, and the
    averaged weights where there are some.
    """
    from kdeov.models.student import VisualStudent

    student = VisualStudent(params.distill.backbone, params.distill.fusion, dim)
    weights = sum(value.numel() * value.element_size() for value in student.state_dict().values())
    return (MAX_CHECKPOINTS + 1) * weights * (4 if params.distill.ema_decay else 3)


def _vectors_to_come(
    params: Params, layout: Layout, dim: int, manifests: dict[Path, Manifest]
) -> int:
    """Bytes of the teacher shards that are not there yet; a caption an image is assumed."""
    total = 0
    for split in SPLITS:
        images = manifests.get(layout.images / split)
        if images is not None and layout.embeddings / split not in manifests:
            views = params.embed.views if split == "train" else 1
            total += int(images.samples * (views + 1) * dim * BYTES_A_DIMENSION)
    return total


def disks(nodes: list[NodeFacts], wanted: Needs) -> list[Check]:
    """Whether every place of every machine has room."""
    known = [(node, place, free) for node in nodes for place, free in node.rooms.items()]
    poor = [
        f"{place} on {node.name} has {_size(free)} and needs {_size(wanted.rooms[place])}"
        for node, place, free in known
        if free < wanted.rooms[place]
    ]
    if poor:
        return [fault("disk", listed(poor), "free space, or point to another disk")]
    if not known:
        return []
    _, place, free = min(known, key=lambda room: room[2] - wanted.rooms[room[1]])
    return [ok("disk", f"{_size(free)} free in {place}, {_size(wanted.rooms[place])} needed")]


def shared_memory(nodes: list[NodeFacts], wanted: Needs, cluster: ClusterParams) -> list[Check]:
    """Whether every machine has the shared memory that loader processes and Ray take."""
    workers = 1 if cluster.mode == "inline" else cluster.max_workers
    known = [(node, node.shared_memory) for node in nodes if node.shared_memory is not None]
    poor, small = [], []
    for node, free in known:
        here = min(workers, node.usable_gpus or node.cpus)
        batches = wanted.batches * max(1, here) // workers
        if free < batches:
            poor.append(f"{node.name} has {_size(free)}, its loaders need {_size(batches)}")
        elif cluster.mode != "inline" and free < RAY_STORE:
            small.append(f"{node.name} has {_size(free)}, Ray's objects would go to the disk")
    cure = "give containers more (--shm-size, or an emptyDir of medium Memory)"
    if poor:
        return [
            fault("/dev/shm", listed(poor), f"{cure}, or lower cluster.dataloader_workers to 0")
        ]
    if small:
        return [warning("/dev/shm", listed(small), cure)]
    return [ok("/dev/shm", f"{_size(min(free for _, free in known))} free")] if known else []


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
