"""The linear map in closed form: against scikit-learn, and the same however the images come."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor

from kdeov.models.student import VisualStudent
from kdeov.training.distributed import get_world_size
from kdeov.training.ridge_init import fit_projection

IMAGES, WIDTH = 24, 8


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return _images()


def _images() -> tuple[Tensor, Tensor]:
    """Pixels [24, 3, 32, 32] and teacher embeddings [24, 8] with a common direction, as CLIP's."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(IMAGES, 3, 32, 32, generator=generator)
    return pixels, torch.randn(IMAGES, WIDTH, generator=generator) + 2


def _fitted(pixels: Tensor, teacher: Tensor, size: int, strength: float = 0.3) -> VisualStudent:
    torch.manual_seed(0)
    student = VisualStudent("yolov8n", "film", WIDTH)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(pixels.split(size), teacher.split(size), strict=True)

    fit_projection(student, batches, strength)
    return student


@torch.no_grad()
def test_the_map_is_the_ridge_solution_of_unit_embeddings(images: tuple[Tensor, Tensor]) -> None:
    pixels, teacher = images
    student = _fitted(pixels, teacher, size=6).eval()
    hidden = student.projection.pooled(student.backbone(pixels)).double().numpy()
    centred = hidden - hidden.mean(axis=0)
    alpha = 0.3 * (centred**2).sum() / IMAGES
    expected = Ridge(alpha=alpha).fit(hidden, F.normalize(teacher, dim=1).double().numpy())
    found = student(pixels).double().numpy()
    assert abs(found - expected.predict(hidden)).max() < 1e-5


@torch.no_grad()
def test_norms_get_the_statistics_of_all_images(images: tuple[Tensor, Tensor]) -> None:
    pixels, teacher = images
    student = _fitted(pixels, teacher, size=5)
    level, features = student.projection.levels[0], student.eval().backbone(pixels)[0]
    x = level[0](features)
    torch.testing.assert_close(level[1].running_mean, x.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    variance = x.var(dim=(0, 2, 3), unbiased=False)
    torch.testing.assert_close(level[1].running_var, variance, rtol=1e-4, atol=1e-6)


def test_the_backbone_and_the_mode_stay_as_they_were(images: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    before = copy.deepcopy(VisualStudent("yolov8n", "film", WIDTH).backbone.state_dict())
    student = _fitted(*images, size=6)
    assert student.training
    after = student.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_how_images_are_batched_changes_nothing(images: tuple[Tensor, Tensor]) -> None:
    one, many = (_fitted(*images, size=size) for size in (IMAGES, 5))
    for name, value in one.projection.state_dict().items():
        torch.testing.assert_close(many.projection.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def _work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = [part.chunk(get_world_size())[rank] for part in _images()]
    torch.save(_fitted(*share, size=4).projection.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_fit_what_one_process_would(tmp_path: Path, images: tuple[Tensor, Tensor]) -> None:
    mp.spawn(_work, args=(tmp_path,), nprocs=2)
    expected = _fitted(*images, size=4).projection.state_dict()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, value in expected.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-5)
