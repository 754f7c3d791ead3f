"""Regions in the teacher cache: their crops, their embeddings, and the identity of the cache."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdeov.data.region_views import RegionPlan
from kdeov.data.rendering import StoredImage, render
from kdeov.data.views import View
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.identity import shown_classes
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.loader import EpochStream
from pipeline.data.verify import verify_cache
from pipeline.embedding.embed import embed
from pipeline.teachers.load import load_teacher
from tests.helpers.teacher_cache import MakeParams, ages, identity_of, paired

REGIONS = {"count": 3, "kind": "objects", "margin": 0.2}
Embedded = tuple[Layout, Params]


@pytest.fixture(scope="module")
def embedded(
    built: Layout, make_params: MakeParams, tmp_path_factory: pytest.TempPathFactory
) -> Embedded:
    """A checkout whose cache has regions of objects. For reading alone."""
    layout = Layout(tmp_path_factory.mktemp("regions") / "checkout")
    shutil.copytree(built.root, layout.root, symlinks=True)
    params = make_params(embed={"regions": REGIONS})
    embed(params, layout)
    return layout, params


@pytest.mark.parametrize(
    ("split", "views", "regions"), [("train", 3, 3), ("val", 1, 3), ("test", 1, 0)]
)
def test_training_and_validation_images_have_regions(
    embedded: Embedded, built: Layout, params: Params, split: str, views: int, regions: int
) -> None:
    layout, changed = embedded
    for sample, before in zip(
        paired(layout, changed, split), paired(built, params, split), strict=True
    ):
        assert (len(sample.views), len(sample.regions)) == (views, regions)
        assert sample.region_embeddings.shape == (regions, 32)
        assert before.regions == [] and before.views == sample.views
        # batches of other sizes round differently
        assert sample.view_embeddings == pytest.approx(before.view_embeddings, abs=2e-3)
        assert sample.text_embeddings == pytest.approx(before.text_embeddings, abs=2e-3)
        for region in sample.regions:
            assert region == View(region.left, region.top, region.width, region.height)


def test_region_embeddings_are_the_live_teacher_on_the_very_crops(embedded: Embedded) -> None:
    layout, params = embedded
    teacher = load_teacher(layout.teacher)
    for sample in list(paired(layout, params, "val"))[:4]:
        image = StoredImage(sample.jpeg)
        pixels = torch.stack([render(image, r, teacher.transform.size) for r in sample.regions])
        shown = teacher.transform.normalize(pixels)
        live = F.normalize(teacher.encode_image(shown), dim=-1)
        cached = torch.from_numpy(sample.region_embeddings.astype(np.float32))
        assert (live * cached).sum(dim=1).min() >= 0.9995


def test_held_out_objects_have_no_region_around_them(embedded: Embedded) -> None:
    layout, params = embedded
    dataset = Dataset.read(layout.images)
    assert dataset.held_out_objects and not set(dataset.held_out_objects) & set(
        dataset.base_objects
    )
    plan = RegionPlan.from_dict(identity_of_regions(layout, params, "val"))
    assert list(plan.classes) == dataset.base_objects
    held_out = base = 0
    for sample in paired(layout, params, "val"):
        shown = [o for o in sample.objects if o["name"] in dataset.base_objects]
        held_out += len(sample.objects) - len(shown)
        base += min(3, len(shown))
        size = Image.open(io.BytesIO(sample.jpeg)).size
        assert sample.regions == plan.draw_all(sample.key, size, shown)
        around = [r for r in sample.regions for o in shown if _covers(r, o["box"])]
        assert len(around) >= min(3, len(shown))
    assert held_out and base


def _covers(region: View, box: list[int]) -> bool:
    right, bottom = region.left + region.width, region.top + region.height
    return region.left <= box[0] and region.top <= box[1] and right >= box[2] and bottom >= box[3]


def identity_of_regions(layout: Layout, params: Params, split: str) -> dict[str, Any]:
    return paired(layout, params, split).cache.identity["regions"]


def test_a_cache_with_regions_passes_verification(embedded: Embedded) -> None:
    layout, params = embedded
    teacher = load_teacher(layout.teacher)
    for split in ("train", "val", "test"):
        assert verify_cache(paired(layout, params, split), teacher, 99, whole=True) >= 0.9995


def test_without_regions_the_identity_is_that_of_older_caches(
    built: Layout, make_params: MakeParams
) -> None:
    plain = identity_of(built, make_params())
    assert "regions" not in plain
    other = make_params(embed={"regions": {"kind": "grid", "margin": 0.5, "max_area": 0.3}})
    assert identity_of(built, other) == plain
    some = make_params(embed={"regions": {"count": 2}})
    assert identity_of(built, some, "test") == identity_of(built, make_params(), "test")
    assert identity_of(built, some)["regions"]["count"] == 2


def test_more_regions_embed_training_and_validation_again_and_no_test_shard(
    embedded: Embedded, make_params: MakeParams, tmp_path: Path, complains: Any
) -> None:
    layout = Layout(tmp_path / "checkout")
    shutil.copytree(embedded[0].root, layout.root, symlinks=True)
    before = ages(layout.embeddings)
    params = make_params(embed={"regions": {**REGIONS, "count": 4}})
    with complains("regions.count is 3, wanted 4", "dvc repro embed"):
        paired(layout, params)
    embed(params, layout)
    changed = {name for name, age in ages(layout.embeddings).items() if age != before[name]}
    assert changed and not any(name.startswith("test") for name in changed)


def test_images_without_annotated_objects_have_random_regions(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    params = make_params(embed={"regions": REGIONS})
    shutil.copytree(built.images, tmp_path / "images")
    dataset = replace(Dataset.read(tmp_path / "images"), object_classes=[], held_out_objects=[])
    assert shown_classes(params.embed, tmp_path / "images") != []
    dataset.write(tmp_path / "images")
    assert shown_classes(params.embed, tmp_path / "images") == []
    plans = [RegionPlan(3, 0, kind, 0.03, 0.5, 0.2) for kind in ("objects", "random")]
    objects, random = (plan.draw_all("a", (80, 60), []) for plan in plans)
    assert objects == random and len(objects) == 3


def test_batches_hold_the_regions_that_their_view_shows(embedded: Embedded) -> None:
    from tests.pipeline.data.test_loader import TRANSFORM, plan_of

    layout, params = embedded
    shards = paired(layout, params)
    samples = {sample.key: sample for sample in shards}
    shown = 0
    for batch in EpochStream(shards, plan_of(shards, 0), TRANSFORM):
        assert batch.boxes.shape == (len(batch.keys), 3, 4) and batch.regions.shape[2] == 32
        for key, boxes, rows in zip(batch.keys, batch.boxes, batch.regions, strict=True):
            assert np.array_equal(rows.numpy(), samples[key].region_embeddings.astype(np.float32))
            inside = boxes[boxes[:, 2] > 0]
            shown += len(inside)
            assert ((inside >= 0) & (inside <= TRANSFORM.size + 1e-3)).all()
    assert 0 < shown < 3 * len(samples)
