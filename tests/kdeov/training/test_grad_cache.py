"""A step of any number of ranks and micro-batches against plain autograd on the global batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.models.fusion import fusion_loss
from kdeov.models.student import VisualStudent
from kdeov.training.distributed import get_rank, get_world_size
from kdeov.training.forward import RegionWeights
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import TERMS, FeatureAlignmentLoss
from kdeov.training.mosaics import make_mosaics

IMAGES, MICRO, WIDTH = 8, 2, 8
CASES: dict[str, dict[str, Any]] = {
    **{term: {"weights": {term: 1.0}} for term in TERMS},
    "l2": {"weights": {"feature": 1.0}, "kind": "l2"},
    "feature and fusion": {"weights": {"feature": 1.0}, "fusion": 0.5},
    "every term": {"weights": dict.fromkeys(TERMS, 0.5), "fusion": 0.3},
    "own rows": {"weights": dict.fromkeys(TERMS, 0.5), "fusion": 0.3, "max_full_matrix": 0},
    "regions": {"weights": {"feature": 1.0}, "regions": RegionWeights(0.7)},
    "mosaics": {"weights": {"feature": 1.0}, "regions": RegionWeights(0, 0.6), "micro": 4},
    "regions of every term": {
        "weights": dict.fromkeys(TERMS, 0.5),
        "fusion": 0.3,
        "regions": RegionWeights(0.7, 0.6),
        "micro": 4,
    },
}
SEED = (3, 1, 4)
Found = dict[str, Tensor]


def batch() -> list[Tensor]:
    """Pixels [8, 3, 32, 32], teacher embeddings [8, 8] and unit texts [8, 8]."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((3, 32, 32), (WIDTH,), (WIDTH,))
    pixels, teacher, texts = (
        torch.randn(IMAGES, *shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return [pixels, teacher, F.normalize(texts, dim=-1)]


def regions() -> tuple[Tensor, Tensor]:
    """Boxes [8, 3, 4], some cut by their view, and their teacher embeddings [8, 3, 8]."""
    generator = torch.Generator().manual_seed(8)
    low, high = (32 * torch.rand(IMAGES, 3, 2, generator=generator).double() for _ in range(2))
    boxes = torch.cat([low.minimum(high), low.maximum(high)], dim=2)
    boxes[::3, 1:] = 0
    targets = torch.randn(IMAGES, 3, WIDTH, generator=generator, dtype=torch.float64)
    return boxes, F.normalize(targets, dim=-1)


def parts(case: dict[str, Any]) -> tuple[VisualStudent, FeatureAlignmentLoss]:
    torch.manual_seed(0)
    student = VisualStudent("yolov8n", "film", WIDTH).double().train()
    nn.init.normal_(student.fusion.out.weight)
    return student, FeatureAlignmentLoss(case["weights"], case.get("kind", "cosine")).double()


def gradients(student: VisualStudent, loss: nn.Module, terms: Found) -> Found:
    """Loss terms and the gradients of all that is trained."""
    modules = nn.ModuleDict({"student": student, "loss": loss})
    named = {f"gradient of {n}": p.grad for n, p in modules.named_parameters() if p.requires_grad}
    return {name: value.detach() for name, value in {**terms, **named}.items() if value is not None}


def statistics(student: VisualStudent) -> Found:
    return {name: value for name, value in student.named_buffers() if "running" in name}


def plain(case: dict[str, Any]) -> Found:
    """One process, the global batch, autograd; batch norm sees micro-batches."""
    student, loss = parts(case)
    pixels, teacher, texts = batch()
    size, weights = case.get("micro", MICRO), case.get("regions", RegionWeights())
    starts = range(0, IMAGES, size)
    mosaics = [make_mosaics(pixels[n : n + size], (*SEED, n)) for n in starts if weights.mosaic]
    shown = [
        torch.cat([pixels[n : n + size], *(m.pixels for m in mosaics[n // size :][:1])])
        for n in starts
    ]
    copies = [copy.deepcopy(student) for _ in shown]
    for one, micro in zip(copies, shown, strict=True):
        one(micro)
    means = {
        name: torch.stack([statistics(one)[name] for one in copies]).mean(dim=0)
        for name in statistics(student)
    }
    projection, strides = student.projection, student.backbone.strides
    hidden = [projection.hidden(student.backbone(micro)) for micro in shown]
    own = [torch.cat([part[:size] for part in level]) for level in zip(*hidden, strict=True)]
    terms = loss(projection.embedding_of(own), teacher, texts)
    if case.get("fusion"):
        dense = projection.coarse_map_of(own)
        terms["fusion"] = fusion_loss(student.fusion, dense, texts, texts, torch.arange(IMAGES))
        terms["total"] = terms["total"] + case["fusion"] * terms["fusion"]
    else:
        student.fusion.requires_grad_(False)
    if weights.regions:
        boxes, targets = regions()
        cosines = F.cosine_similarity(projection.regions_of(own, boxes, strides), targets, dim=-1)
        terms["regions"] = (1 - cosines)[boxes[..., 2] > 0].mean()
        terms["total"] = terms["total"] + weights.regions * terms["regions"]
    if weights.mosaic:
        distances = []
        for n, mosaic, levels in zip(starts, mosaics, hidden, strict=True):
            found = projection.regions_of([x[size:] for x in levels], mosaic.boxes, strides)
            wanted = teacher[n : n + size][mosaic.rows]
            distances.append((1 - F.cosine_similarity(found, wanted, dim=-1)).mean())
        terms["mosaic"] = torch.stack(distances).mean()
        terms["total"] = terms["total"] + weights.mosaic * terms["mosaic"]
    terms["total"].backward()
    return gradients(student, loss, terms) | means


def cached(case: dict[str, Any]) -> Found:
    """This rank's share of the same step; terms are averaged over the ranks, as training does."""
    rank, size = get_rank(), get_world_size()
    student, loss = parts(case)
    micro = case.get("micro", MICRO)
    shares = [micro * len(part) for part in np.array_split(range(IMAGES // micro), size)]
    weights = case.get("regions")
    step = GradCacheStep(
        student, loss, case.get("fusion", 0.0), micro, shares, region_weights=weights
    )
    step.max_full_matrix = case.get("max_full_matrix", step.max_full_matrix)
    inputs = [*batch(), *regions()]
    terms = step.backward(*(tensor.split(shares)[rank] for tensor in inputs), seed=SEED)
    if size > 1:
        for value in terms.values():
            dist.all_reduce(value)
            value /= size
    return gradients(student, loss, terms) | statistics(student)


def largest_difference(case: dict[str, Any]) -> float:
    expected, found = plain(case), cached(case)
    assert found.keys() == expected.keys()
    return max(
        ((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)).item()
        for name, value in expected.items()
    )


def work(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    shared = {n: case for n, case in CASES.items() if IMAGES // case.get("micro", MICRO) >= size}
    found = {name: largest_difference(case) for name, case in shared.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
def test_accumulated_micro_batches_have_the_gradient_of_the_global_batch(case: str) -> None:
    assert largest_difference(CASES[case]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_and_micro_batches_have_the_gradient_of_one_process(
    tmp_path: Path, ranks: int
) -> None:
    """Two ranks accumulate two micro-batches each, four have one; of three, the first has two."""
    mp.spawn(work, args=(ranks, tmp_path), nprocs=ranks)
    for rank in range(ranks):
        assert max(torch.load(tmp_path / f"{rank}.pt").values()) < 1e-6


def test_a_look_at_the_batch_leaves_no_trace_in_its_statistics() -> None:
    """Contrastive terms pass every micro-batch twice; its statistics count once."""
    one, two = cached(CASES["feature"]), cached(CASES["interactive"])
    names = [name for name in one if "running" in name]
    assert names and all(torch.equal(one[name], two[name]) for name in names)


def test_without_fusion_its_module_is_frozen() -> None:
    student, loss = parts(CASES["feature"])
    GradCacheStep(student, loss, 0.0)
    assert not any(p.requires_grad for p in student.fusion.parameters())
    GradCacheStep(student, loss, 0.1)
    assert all(p.requires_grad for p in student.fusion.parameters())


def test_regions_without_weight_change_no_bit() -> None:
    case = CASES["every term"]
    student, loss = parts(case)
    step = GradCacheStep(student, loss, case["fusion"], MICRO)
    terms = step.backward(*batch())
    with_regions = cached(case)
    for name, value in (gradients(student, loss, terms) | statistics(student)).items():
        assert torch.equal(value, with_regions[name])
