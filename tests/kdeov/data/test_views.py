"""Views, which teacher and student both see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeov.data.views import (
    VIEW_FIELDS,
    View,
    ViewPlan,
    center_view,
    view_of_epoch,
    views_from_ints,
)
from tests.helpers.views import KEYS, NUMBERS, PLANS

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
COUNTS = st.integers(1, 40)


@given(PLANS, KEYS, NUMBERS, SIZES)
def test_crop_lies_inside_the_image(plan, key, number, size):
    view = plan.draw(key, number, size)
    assert view.width > 0 and view.height > 0
    assert view.left >= 0 and view.left + view.width <= size[0]
    assert view.top >= 0 and view.top + view.height <= size[1]


@given(KEYS, NUMBERS, st.floats(0.01, 0.7), st.tuples(*2 * [st.integers(300, 400)]))
def test_crop_covers_the_least_area(key, number, crop_scale_min, size):
    view = ViewPlan(crop_scale_min=crop_scale_min).draw(key, number, size)
    rounding = sum(size)  # half a pixel at each side
    assert view.width * view.height >= crop_scale_min * size[0] * size[1] - rounding


@given(PLANS, KEYS, NUMBERS, SIZES)
def test_integers_of_a_view_fit_into_16_bits_and_bring_it_back(plan, key, number, size):
    view = plan.draw(key, number, size)
    stored = np.array([view.to_ints()], dtype=np.int64)
    assert stored.shape == (1, VIEW_FIELDS)
    assert (stored == stored.astype(np.uint16)).all()
    assert views_from_ints(stored.astype(np.uint16)) == [view]


@given(PLANS, KEYS, SIZES)
def test_view_0_is_the_centred_square(plan, key, size):
    view, side = plan.draw(key, 0, size), min(size)
    assert (view.width, view.height) == (side, side)
    for start, length in zip((view.left, view.top), size, strict=True):
        assert 0 <= (length - side - start) - start <= 1  # the odd pixel is cut at the far end
    assert view == View(*view.to_ints()[:4]) == center_view(size)


@given(PLANS, KEYS, NUMBERS, SIZES, COUNTS)
def test_a_view_follows_from_seed_key_and_number_alone(plan, key, number, size, count):
    view = plan.draw(key, number, size)
    again = ViewPlan(count, plan.seed, plan.crop_scale_min, plan.color_jitter, plan.blur_prob)
    again.draw("another", number, size)  # what was drawn before does not matter
    assert again.draw(key, number, size) == view
    assert again.draw_all(key, size) == [plan.draw(key, n, size) for n in range(count)]


def test_a_view_is_the_same_in_every_release():
    view = ViewPlan(count=3, seed=1).draw("000000000790", 2, (640, 480))
    assert view.to_ints() == [14, 2, 518, 478, 0, 88, 92, 99, 0]  # caches hold embeddings of it


def test_seed_key_and_number_each_change_the_view():
    size = (500, 400)
    views = {
        ViewPlan(seed=seed).draw(key, number, size)
        for seed in (0, 1)
        for key in ("a", "b")
        for number in (1, 2)
    }
    assert len(views) == 8


def test_half_of_the_views_are_mirrored_and_their_share_is_blurred():
    views = ViewPlan(count=2001, blur_prob=0.2).draw_all("key", (500, 400))[1:]
    assert sum(view.flip for view in views) / 2000 == pytest.approx(0.5, abs=0.05)
    assert sum(view.blur > 0 for view in views) / 2000 == pytest.approx(0.2, abs=0.05)


@given(KEYS, st.integers(0, 10_000), COUNTS)
def test_every_view_is_visited_in_as_many_epochs(key, start, count):
    shown = [view_of_epoch(key, epoch, count) for epoch in range(start, start + count)]
    assert sorted(shown) == list(range(count))


def test_images_do_not_show_the_same_view_at_once():
    shown = {view_of_epoch(str(key), 0, 8) for key in range(200)}
    assert shown == set(range(8))
