"""Checks of free disk space against the bytes that a run writes, and of shared memory, which
carries batches from dataloader workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import region_plan
from pipeline.artifacts.manifest import Manifest
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, error, first_few, ok, warning
from pipeline.doctor.node import NodeFacts, temporary_folder
from pipeline.storage.storage import open_storage
from pipeline.training.checkpoints import MAX_CHECKPOINTS

MIN_FREE_BYTES = 1 << 30  # of any disk: logs, packages, a student
BYTES_PER_DIMENSION = 2.4  # of a stored embedding, tar headers and checksums included
PREFETCH_BATCHES = 3  # in shared memory: two in the queue by default, one in use
RAY_STORE_BYTES = 1 << 30  # with less shared memory, Ray puts its object store on the disk


@dataclass(frozen=True)
class Needs:
    """Estimated needs of a run.

    Attributes:
        disk: Bytes by path.
        batches: Bytes of shared memory, over all workers; 0 without dataloader workers.
    """

    disk: dict[Path, int]
    batches: int


def needs(
    params: Params, layout: Layout, runs: Path | None, dim: int, manifests: dict[Path, Manifest]
) -> Needs:
    """Estimates the disk space and shared memory of a run.

    Args:
        params: Params of the run.
        layout: Paths of the checkout.
        runs: Folder of checkpoints; None where they go to a bucket.
        dim: Width of the teacher's embeddings.
        manifests: Existing manifests, by folder.

    Raises:
        KdeovError: The student cannot be built.
    """
    distill, disk = params.distill, {temporary_folder(): MIN_FREE_BYTES}
    if params.cluster.mode != "cluster":
        disk[layout.root] = MIN_FREE_BYTES
    if runs is not None:
        disk[runs] = disk.get(runs, MIN_FREE_BYTES) + checkpoint_bytes(params, dim)
    shards = (
        layout.root if params.data.storage is None else open_storage(params.data.storage).folder
    )
    if shards is not None:
        missing = _missing_embedding_bytes(params, layout, dim, manifests)
        disk[shards] = disk.get(shards, MIN_FREE_BYTES) + missing
    regions = region_plan(params.embed, "train").count
    image = 3 * distill.image_size**2 + 2 * 4 * dim + regions * 4 * (4 + dim)
    loaders = params.cluster.dataloader_workers > 0
    return Needs(disk, PREFETCH_BATCHES * distill.global_batch_size * image if loaders else 0)


def checkpoint_bytes(params: Params, dim: int) -> int:
    """Bytes of all checkpoints that exist at once: weights, two moments of the optimizer and, with
    `distill.ema_decay`, averaged weights.
    """
    from kdeov.models.student import VisualStudent

    student = VisualStudent(params.distill.backbone, params.distill.fusion, dim)
    weights = sum(value.numel() * value.element_size() for value in student.state_dict().values())
    return (MAX_CHECKPOINTS + 1) * weights * (4 if params.distill.ema_decay else 3)


def _missing_embedding_bytes(
    params: Params, layout: Layout, dim: int, manifests: dict[Path, Manifest]
) -> int:
    """Estimated bytes of teacher shards still to be written, with one caption an image."""
    total = 0
    for split in SPLITS:
        images = manifests.get(layout.images / split)
        if images is not None and layout.embeddings / split not in manifests:
            views = params.embed.views if split == "train" else 1
            views += region_plan(params.embed, split).count
            total += int(images.samples * (views + 1) * dim * BYTES_PER_DIMENSION)
    return total


def disks(nodes: list[NodeFacts], wanted: Needs) -> list[Check]:
    """Checks the free space of every disk on every machine."""
    known = [(node, path, free) for node in nodes for path, free in node.disk_free.items()]
    poor = [
        f"{path} on {node.name} has {_size(free)} and needs {_size(wanted.disk[path])}"
        for node, path, free in known
        if free < wanted.disk[path]
    ]
    if poor:
        return [error("disk", first_few(poor), "free space, or choose another disk")]
    if not known:
        return []
    _, path, free = min(known, key=lambda disk: disk[2] - wanted.disk[disk[1]])
    return [ok("disk", f"{_size(free)} free in {path}, {_size(wanted.disk[path])} needed")]


def shared_memory(nodes: list[NodeFacts], wanted: Needs, cluster: ClusterParams) -> list[Check]:
    """Checks the shared memory of every machine against the needs of dataloader workers and Ray."""
    workers = cluster.most_processes
    known = [(node, node.shared_memory) for node in nodes if node.shared_memory is not None]
    poor, small = [], []
    for node, free in known:
        here = min(workers, node.usable_gpus or node.cpus)
        batches = wanted.batches * max(1, here) // workers
        if free < batches:
            poor.append(
                f"{node.name} has {_size(free)}, its dataloader workers need {_size(batches)}"
            )
        elif cluster.mode != "inline" and free < RAY_STORE_BYTES:
            small.append(f"{node.name} has {_size(free)}, Ray would put objects on the disk")
    fix = "give containers more (--shm-size, or an emptyDir with medium: Memory)"
    if poor:
        return [
            error("/dev/shm", first_few(poor), f"{fix}, or lower cluster.dataloader_workers to 0")
        ]
    if small:
        return [warning("/dev/shm", first_few(small), fix)]
    return [ok("/dev/shm", f"{_size(min(free for _, free in known))} free")] if known else []


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
