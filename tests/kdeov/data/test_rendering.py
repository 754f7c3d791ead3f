"""Rendered views: crops of what the file holds, equal for teacher, student and runtime."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdeov.data.colors import adjust_colors_
from kdeov.data.rendering import StoredImage, crop, render
from kdeov.data.transform import ImageTransform
from kdeov.data.views import View, center_view
from kdeov.errors import DataError
from tests.helpers.stored_images import encoded, lossless
from tests.helpers.views import KEYS, NUMBERS, PLANS

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth and sharp parts."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    image.paste("white", (size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2))
    return image


@given(PLANS, KEYS, NUMBERS, SIZES, st.integers(1, 48))
def test_a_view_is_rendered_at_any_size(image, plan, key, number, size, side):
    shown = render(lossless(image(size)), plan.draw(key, number, size), side)
    assert (shown.shape, shown.dtype) == ((3, side, side), torch.uint8) and shown.is_contiguous()


@given(PLANS, KEYS, NUMBERS, st.integers(8, 48))
def test_a_flip_is_the_exact_mirror(image, plan, key, number, side):
    image = lossless(image((60, 44)))
    fields = plan.draw(key, number, image.size).to_ints()
    plain, mirrored = (render(image, View(*fields[:4], flip, *fields[5:]), side) for flip in (0, 1))
    assert torch.equal(mirrored, plain.flip(2))


@pytest.mark.parametrize("size", [(64, 64), (90, 61), (40, 133), (640, 480), (31, 700)])
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_view_0_is_what_evaluation_and_runtime_see(size, filter_):
    """Pillow and torch round weights differently: a level, in few pixels."""
    data = encoded(photograph(size), quality=95)
    shown = render(StoredImage(data), center_view(size), 32, filter_)
    (expected,) = ImageTransform(32, interpolation=filter_).pixels(lossless_of(data))[None]
    difference = (shown.int() - expected.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.1


def lossless_of(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation", "blur"])
def test_every_color_change_is_seen(image, field):
    image, plain = lossless(image((64, 64))), View(0, 0, 64, 64)
    changed = View(0, 0, 64, 64, **{field: 60})
    assert not torch.equal(render(image, changed, 32), render(image, plain, 32))


def test_both_steps_together_are_rendering(image):
    image, view = lossless(image((64, 64))), View(3, 4, 50, 40, 1, 90, 120, 80, 11)
    assert torch.equal(
        render(image, view, 32), adjust_colors_(crop(image, view, 32)[None], [view])[0]
    )
    assert torch.equal(crop(image, view, 32), crop(image, View(3, 4, 50, 40, 1), 32))


@pytest.mark.parametrize(
    ("size", "crop_", "scale"),
    [
        ((640, 480), View(0, 0, 640, 480), 2),
        ((640, 480), View(20, 10, 420, 420), 2),
        ((640, 480), View(20, 10, 419, 420), 1),  # too few pixels would stay
        ((640, 480), View(80, 0, 480, 480), 1),  # the plain view
        ((640, 480), View(80, 0, 480, 480, brightness=101), 2),
        ((4000, 3000), View(0, 0, 4000, 3000), 8),
        ((4000, 3000), View(0, 0, 900, 1000), 4),
        ((4000, 3000), View(0, 0, 4000, 335), 1),  # a side would be too short
    ],
)
def test_crops_are_reduced_while_they_are_decoded_where_enough_pixels_stay(size, crop_, scale):
    image = StoredImage(encoded(Image.new("RGB", size, "gray")))
    assert image.scale(crop_, 224) == scale
    assert lossless(Image.new("RGB", size)).scale(crop_, 224) == 1


@pytest.mark.parametrize("size", [(640, 480), (633, 471)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_crop_shows_the_same_place(size, scale):
    """Its difference from the whole image's crop is less than from that one pixel further on."""
    image, side = StoredImage(encoded(photograph(size), quality=95)), 80
    view = View(33, 21, 500, 400, flip=1)
    whole = lossless(lossless_of(encoded(photograph(size), quality=95)))
    assert image.scale(view, side) == 4
    expected, shown = (crop(one, view, side).int() for one in (whole, image))
    moved = expected.roll(1, 2)
    assert (shown - expected).abs().float().mean() < 0.3 * (shown - moved).abs().float().mean()
    assert image.pixels(scale).shape == (-(-size[1] // scale), -(-size[0] // scale), 3)


def test_reduced_pixels_are_those_of_pillow():
    data = encoded(photograph((333, 250)), quality=90)
    for scale in (1, 2, 4, 8):
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (333 // scale, 250 // scale))
            assert np.array_equal(StoredImage(data).pixels(scale), image)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_every_kind_of_jpeg_has_the_pixels_of_pillow(mode, options):
    data = encoded(photograph((50, 40)).convert(mode), **options)
    assert np.array_equal(StoredImage(data).pixels(), lossless_of(data))


def test_a_rotation_in_exif_is_left_to_prepare():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = StoredImage(encoded(photograph((50, 40)), exif=exif))
    assert image.size == (50, 40) and image.pixels().shape == (40, 50, 3)


@pytest.mark.parametrize("cut", [0, 5, 300, 1500])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_damaged_image_is_one_line(cut, kind):
    data = encoded(photograph((200, 150)), kind)[:cut]
    with pytest.raises(DataError) as caught:
        render(StoredImage(data), View(0, 0, 200, 150), 32)
    assert "\n" not in str(caught.value)


VECTORS = """
import hashlib, sys
from kdeov.data.rendering import StoredImage, render
from kdeov.data.views import View
image = StoredImage(sys.stdin.buffer.read())
views = [View(80, 0, 480, 480), View(3, 5, 600, 420, 1, 90, 120, 80, 11), View(9, 9, 200, 300)]
pixels = b"".join(render(image, view, 224).numpy().tobytes() for view in views)
print(hashlib.sha256(pixels).hexdigest())
"""


@pytest.mark.slow
def test_a_cpu_without_vector_units_renders_the_same_bytes():
    data = encoded(photograph((640, 480)), quality=92)
    digests = {
        subprocess.run(
            [sys.executable, "-c", VECTORS],
            input=data,
            capture_output=True,
            check=True,
            env={**os.environ, **variables},
        ).stdout
        for variables in ({}, {"ATEN_CPU_CAPABILITY": "default", "JSIMD_FORCENONE": "1"})
    }
    assert len(digests) == 1
