"""Rendering of views, against bare decoding and against rendering with Pillow alone."""

from __future__ import annotations

import io
import statistics
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from kdeov.data.colors import adjust_colors_
from kdeov.data.rendering import StoredImage, crop
from kdeov.data.views import View, ViewPlan
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import IMAGE, photographs
from pipeline.bench.sizes import BenchSizes
from pipeline.evaluation.shared.timing import interleaved, median_ratio

VIEWS = 4  # of an image; all but the plain one change colors, and a fifth of those are blurred


def rendering_figures(sizes: BenchSizes) -> list[Figure]:
    """Measures `rendering_speedup` and `rendering_against_decoding`: images/s from JPEGs to the
    pixels of views with changes of color, on one core.

    Args:
        sizes: Sizes of the measurements.
    """
    torch.set_num_threads(1)
    plan = ViewPlan(VIEWS)
    jpegs = list(islice(photographs(), sizes.render_images))
    views = [
        plan.draw(str(number), 1 + number % (VIEWS - 1), IMAGE) for number in range(len(jpegs))
    ]
    pairs = list(zip(jpegs, views, strict=True))

    def bare() -> None:
        for jpeg in jpegs:
            with Image.open(io.BytesIO(jpeg)) as image:
                image.load()

    def pillow() -> None:
        for jpeg, view in pairs:
            render_with_pillow(jpeg, view, sizes.image_size)

    def ours() -> None:
        for start in range(0, len(pairs), sizes.step_batch):  # as the loader does
            batch = pairs[start : start + sizes.step_batch]
            crops = [crop(StoredImage(jpeg), view, sizes.image_size) for jpeg, view in batch]
            adjust_colors_(torch.stack(crops), [view for _, view in batch])

    times = interleaved({"bare": bare, "pillow": pillow, "ours": ours}, sizes.repeats)
    rate = len(jpegs) / statistics.median(times["ours"])
    return [
        Figure(
            "rendering_speedup",
            median_ratio(times["pillow"], times["ours"]),
            1.7,
            f"{rate:.0f} views/s a core, against Pillow alone",
        ),
        Figure(
            "rendering_against_decoding",
            median_ratio(times["bare"], times["ours"]),
            0.85,
            "of the rate at which Pillow decodes",
        ),
    ]


def render_with_pillow(jpeg: bytes, view: View, size: int) -> Tensor:
    """A view as Pillow's own filters and enhancers render it, uint8 [3, size, size]."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        image = opened.convert("RGB")
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    shown = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if view.flip:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer, percent in (
        (ImageEnhance.Brightness, view.brightness),
        (ImageEnhance.Contrast, view.contrast),
        (ImageEnhance.Color, view.saturation),
    ):
        if percent != 100:
            shown = enhancer(shown).enhance(percent / 100)
    if view.blur:
        shown = shown.filter(ImageFilter.GaussianBlur(view.blur / 1000 * size))
    return torch.from_numpy(np.array(shown)).permute(2, 0, 1)
