"""Color changes give the bytes of exact arithmetic, so that no device can give others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageEnhance, ImageFilter
from torch import Tensor

from kdeov.data import colors
from kdeov.data.colors import adjust_colors_
from kdeov.data.views import View
from kdeov.errors import ConfigError

PERCENTS = st.integers(0, 200)
VIEWS = st.builds(
    View, st.just(0), st.just(0), st.just(8), st.just(8), st.integers(0, 1),
    PERCENTS, PERCENTS, PERCENTS, st.sampled_from([0, 2, 11, 60]),
)  # fmt: skip
PLAIN = View(0, 0, 8, 8)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def exact(pixels: Tensor, view: View) -> np.ndarray:
    """One image [3, S, S] in integers of any length, by the formula of `adjust_colors_`."""
    x = pixels.numpy().astype(object)
    b, c, s = view.brightness, view.contrast, view.saturation
    gray = (19595 * x[0] + 38470 * x[1] + 7471 * x[2] + 2**15) // 2**16
    own, other = (round(4096 * f / 10**6) for f in (s * c * b, (100 - s) * c * b))
    offset = 4096 * (100 - c) * b * int(gray.sum()) // (10_000 * gray.size)
    x = np.clip((own * x + other * gray + offset + 2048) // 4096, 0, 255)
    if view.blur:
        sigma = view.blur / 1000 * x.shape[-1]
        taps = range(1, math.ceil(3 * sigma) + 1)
        total = 1 + 2 * sum(math.exp(-((tap / sigma) ** 2) / 2) for tap in taps)
        weights = [round(2**16 * math.exp(-((tap / sigma) ** 2) / 2) / total) for tap in taps]
        for axis in (2, 1):
            place = np.arange(x.shape[axis])
            line = (2**16 - 2 * sum(weights)) * x
            for tap, weight in zip(taps, weights, strict=True):
                for step in (-tap, tap):
                    line = line + weight * x.take(place + step, axis, mode="clip")
            x = (line + 2**15) // 2**16
    return x.astype(np.uint8)


@given(st.lists(VIEWS, min_size=1, max_size=4), st.integers(1, 24), st.integers(0, 99))
def test_every_change_is_that_of_exact_arithmetic(views, side, seed):
    pixels = noise(len(views), side, seed)
    expected = [exact(image, view) for image, view in zip(pixels, views, strict=True)]
    assert adjust_colors_(pixels, views) is pixels
    assert np.array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize(
    "factors", [(b, c, s) for b in (0, 200) for c in (0, 200) for s in (0, 200)]
)
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)])
def test_the_largest_numbers_are_not_rounded(factors, color):
    pixels = torch.tensor(color, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 300, 300)
    pixels[..., 0, 0] = 255 - pixels[..., 0, 0]
    view = View(0, 0, 8, 8, 0, *factors)
    expected = exact(pixels[0], view)
    assert np.array_equal(adjust_colors_(pixels, [view])[0].numpy(), expected)


@given(st.lists(VIEWS, min_size=1, max_size=6), st.integers(1, 24), st.integers(0, 99))
def test_an_accelerator_would_compute_the_bytes_of_a_cpu(views, side, seed):
    views = [PLAIN, *views, PLAIN]  # the first and the last image keep their colors
    pixels = noise(len(views), side, seed)
    expected = adjust_colors_(pixels.clone(), views)
    for batch in (2, 256):
        found = pixels.clone()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("kdeov.data.colors.DEVICE_BATCH", batch)
            colors._adjust_on_device(found, views)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("side", [5, 33, 224, 400])
@pytest.mark.parametrize("blur", [1, 2, 11, 40])
def test_both_filters_give_the_same_bytes(side, blur):
    weights = colors._gaussian(blur, side)
    assert sum(weights[1:]) * 2 + weights[0] == 1
    for pixels in (noise(1, side), torch.full((1, 3, side, side), 255, dtype=torch.uint8)):
        views, expected = [View(0, 0, 8, 8, blur=blur)], pixels.clone()
        colors._adjust_on_device(expected, views)
        assert torch.equal(adjust_colors_(pixels, views), expected)
    assert (pixels == 255).all()


def test_a_view_without_changes_of_color_changes_nothing():
    pixels = noise(2, 8)
    before = pixels.clone()
    assert torch.equal(adjust_colors_(pixels, [PLAIN, View(1, 2, 3, 4, flip=1)]), before)


@pytest.mark.parametrize("side", [7, 224])
def test_gray_images_are_dimmed_and_stay_gray_and_flat(side):
    for saturation in (0, 80, 200):
        pixels = torch.full((1, 3, side, side), 100, dtype=torch.uint8)
        view = View(0, 0, 8, 8, 0, 90, 130, saturation, 11)
        assert (adjust_colors_(pixels, [view]) == 90).all()


@pytest.mark.parametrize(
    ("field", "percent", "enhancer"),
    [
        ("brightness", 115, ImageEnhance.Brightness),
        ("contrast", 85, ImageEnhance.Contrast),
        ("saturation", 130, ImageEnhance.Color),
    ],
)
def test_a_change_is_that_of_pillow_within_a_level(image, field, percent, enhancer):
    pillow = image((64, 64))
    expected = np.asarray(enhancer(pillow).enhance(percent / 100)).astype(int)
    pixels = torch.from_numpy(np.asarray(pillow).copy()).permute(2, 0, 1)[None].contiguous()
    found = adjust_colors_(pixels, [View(0, 0, 8, 8, **{field: percent})])
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_a_blur_is_the_gaussian_of_pillow_on_average(image):
    pillow = image((64, 64))
    expected = np.asarray(pillow.filter(ImageFilter.GaussianBlur(0.03 * 64))).astype(int)
    pixels = torch.from_numpy(np.asarray(pillow).copy()).permute(2, 0, 1)[None].contiguous()
    found = adjust_colors_(pixels, [View(0, 0, 8, 8, blur=30)])[0].permute(1, 2, 0).numpy()
    assert (
        np.abs(found - expected).mean() < 1 < np.abs(found - np.asarray(pillow).astype(int)).mean()
    )


@pytest.mark.parametrize(
    "pixels",
    [
        noise(2, 8).float(),
        noise(3, 8),
        noise(2, 8)[0],
        noise(2, 8)[:, :2],
        noise(2, 8)[..., :4],
        noise(2, 8).contiguous(memory_format=torch.channels_last),
    ],
)
def test_other_shapes_and_numbers_are_refused(pixels):
    with pytest.raises(ConfigError, match="uint8"):
        adjust_colors_(pixels, [PLAIN, PLAIN])


@pytest.mark.parametrize("percent", [-1, 201])
def test_factors_without_an_exact_result_are_refused(percent):
    with pytest.raises(ConfigError, match="view 1"):
        adjust_colors_(noise(2, 8), [PLAIN, View(0, 0, 8, 8, contrast=percent)])
