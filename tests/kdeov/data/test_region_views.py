"""Regions: small plain crops that any process draws alike, and their place in a view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdeov.data.region_views import KINDS, RegionPlan, boxes_in_view
from kdeov.data.rendering import render
from kdeov.data.views import View, ViewPlan
from tests.helpers.stored_images import lossless

SIZES = st.tuples(st.integers(16, 640), st.integers(16, 640))
OBJECTS = [
    {"name": "red disc", "box": [10, 20, 40, 50]},
    {"name": "blue ring", "box": [60, 60, 80, 80]},
    {"name": "red disc", "box": [0, 0, 90, 90], "crowd": True},
]


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 99), number=st.integers(0, 40), size=SIZES)
def test_a_region_is_a_plain_crop_within_the_image(
    kind: str, seed: int, number: int, size: tuple[int, int]
) -> None:
    plan = RegionPlan(41, seed, kind, classes=("red disc", "blue ring"))
    region = plan.draw("key", number, size, OBJECTS)
    assert region == View(region.left, region.top, region.width, region.height)
    assert region.width >= 1 and region.left + region.width <= size[0]
    assert region.height >= 1 and region.top + region.height <= size[1]
    again = replace(plan, count=7)
    assert again.draw("key", number, size, OBJECTS) == region
    assert plan.draw_all("key", size, OBJECTS)[number] == region


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_areas_cover_the_range_and_stay_in_it(kind: str) -> None:
    regions = RegionPlan(90, kind=kind).draw_all("key", (600, 600))
    areas = np.array([r.width * r.height / 360_000 for r in regions])
    assert 0.027 < areas.min() < 0.032 and 0.2 < areas.max() < 0.505


def test_a_grid_shows_every_cell_before_one_comes_twice() -> None:
    cells = sum(n * n for n in range(2, 7))
    regions = RegionPlan(cells, kind="grid").draw_all("key", (600, 400))
    assert len(set(regions)) == cells
    assert sum(r.width * r.height for r in regions) == pytest.approx(5 * 600 * 400, rel=0.01)


def test_objects_come_first_with_their_margin_then_random_regions() -> None:
    plan = RegionPlan(6, kind="objects", margin=0.2, classes=("red disc", "blue ring"))
    regions = plan.draw_all("key", (400, 400), OBJECTS)
    around = sorted(regions[:2], key=lambda r: r.left)
    for region, shown in zip(around, OBJECTS[:2], strict=True):
        left, top, right, bottom = shown["box"]
        assert left - 10 <= region.left < left and top - 10 <= region.top < top
        assert region.left + region.width > right and region.top + region.height > bottom
        assert 1.2 <= region.width / (right - left) <= 1.62
    assert len(set(regions[2:])) == 4


def test_held_out_objects_and_crowds_are_never_shown() -> None:
    plan = RegionPlan(8, kind="objects", classes=("red disc",))
    held_out = [{**OBJECTS[1], "box": box} for box in ([60, 60, 80, 80], [5, 5, 9, 9])]
    with_them = plan.draw_all("key", (400, 400), [*held_out, *OBJECTS])
    assert with_them == plan.draw_all("key", (400, 400), OBJECTS[:1])


@given(number=st.integers(0, 20), side=st.sampled_from([32, 64, 100]))
def test_a_region_lies_where_the_view_shows_it(number: int, side: int) -> None:
    """A white rectangle is found by its box in the rendered view."""
    size = (200, 160)
    view = ViewPlan(21, crop_scale_min=0.5, color_jitter=0, blur_prob=0).draw("key", number, size)
    region = View(90, 60, 40, 30)
    image = Image.new("RGB", size)
    image.paste("white", (90, 60, 130, 90))
    pixels = render(lossless(image), view, side)[0].numpy() / 255
    ((left, top, right, bottom),) = boxes_in_view([region], view, side)
    if right > left:
        assert pixels.sum() == pytest.approx((right - left) * (bottom - top), rel=0.1)
        rows, columns = np.indices(pixels.shape) + 0.5
        center = (columns * pixels).sum() / pixels.sum(), (rows * pixels).sum() / pixels.sum()
        assert center == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.5)
    else:
        inner = (view.left <= 90, view.top <= 60)
        outer = (view.left + view.width >= 130, view.top + view.height >= 90)
        assert not all(inner + outer)
