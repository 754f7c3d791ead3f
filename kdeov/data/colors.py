"""The color changes of views: brightness, contrast, saturation and blur of uint8 images, on any
device with equal bytes.

All numbers are whole multiples of a power of two and shorter than the 24 bits of a float32, so that
no sum or product is ever rounded: neither the order of operations nor a fused multiplication can
change a pixel, and a GPU computes what a CPU does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.views import View
from kdeov.errors import ConfigError

MAX_PERCENT = 200  # of brightness, contrast and saturation: what 24 bits leave room for
FACTOR_BITS = 12  # of the fraction of a color's factor
WEIGHT_BITS = 16  # of the fraction of a weight, in gray (ITU-R 601-2) or in the Gaussian
GRAY = tuple(weight / 2**WEIGHT_BITS for weight in (19595, 38470, 7471))  # of red, green and blue
REACH = 3  # standard deviations at which the Gaussian is cut
DEVICE_BATCH = 256  # images that an accelerator changes at once; their floats take 0.6 GB at 224
PLAIN = (100, 100, 100)


def adjust_colors_(pixels: Tensor, views: Sequence[View]) -> Tensor:
    """The second step of rendering: the brightness, contrast, saturation and blur of views, in
    place.

    With the gray g of a pixel x and the mean m of all g, the three factors b, c and s are one map,
    s c b x + (1 - s) c b g + (1 - c) b m, which is what enhancing one after the other gives where
    nothing is cut at black or white in between. The Gaussian blur follows; edges are repeated.

    Args:
        pixels: uint8 [B, 3, S, S] on any device, contiguous: views that were cropped, resized and
            flipped (see `kdeov.data.rendering.crop`). They are changed, to the same bytes on every
            device.
        views: The B views.

    Returns:
        `pixels`.

    Raises:
        ConfigError: Shapes or numbers do not fit.
    """
    _check(pixels, views)
    if pixels.device.type == "cpu":
        for image, view in zip(pixels.numpy(), views, strict=True):
            _adjust_on_cpu(image, view)
    else:
        _adjust_on_device(pixels, views)
    return pixels


def _adjust_on_device(pixels: Tensor, views: Sequence[View]) -> None:
    """Many images at once, with the operations that every device has."""
    colored = [n for n, view in enumerate(views) if _percents(view) != PLAIN]
    blurred = [n for n, view in enumerate(views) if view.blur]
    if colored:
        factors = _moved(torch.tensor([_factors(views[place]) for place in colored]), pixels)
        for rows in _parts(range(len(colored))):
            index = _index([colored[row] for row in rows], pixels)
            pixels[index] = _mix(pixels[index], factors[rows[0] : rows[-1] + 1])
    channels = pixels.view(-1, *pixels.shape[2:])
    for blur in sorted({views[place].blur for place in blurred}):
        alike = [3 * n + c for n in blurred if views[n].blur == blur for c in range(3)]
        weights = _gaussian(blur, pixels.shape[-1])
        for rows in _parts(alike):
            index = _index(rows, pixels)
            channels[index] = _blur(channels[index], weights)


def _adjust_on_cpu(pixels: np.ndarray, view: View) -> None:
    """One image, uint8 [3, S, S], with OpenCV's filters: they take a third of the time. Where no
    sum is rounded, its order is free, so that the bytes are the same.
    """
    if _percents(view) != PLAIN:
        _mix_on_cpu(pixels, _factors(view))
    if view.blur:
        _blur_on_cpu(pixels, _gaussian(view.blur, pixels.shape[-1]))


def _check(pixels: Tensor, views: Sequence[View]) -> None:
    shape = tuple(pixels.shape)
    fits = shape[:2] == (len(views), 3) and shape[2:3] == shape[3:] and pixels.is_contiguous()
    if pixels.dtype != torch.uint8 or not fits:
        raise ConfigError(
            f"pixels of shape {shape}, strides {pixels.stride()} and dtype {pixels.dtype} for "
            f"{len(views)} views; give contiguous uint8 [{len(views)}, 3, S, S]"
        )
    for number, view in enumerate(views):
        if not (min(_percents(view)) >= 0 and max(_percents(view)) <= MAX_PERCENT):
            raise ConfigError(
                f"view {number} has brightness, contrast and saturation of {_percents(view)} per "
                f"cent; give 0 to {MAX_PERCENT}"
            )


def _percents(view: View) -> tuple[int, int, int]:
    return view.brightness, view.contrast, view.saturation


def _factors(view: View) -> tuple[int, int, int]:
    """The factors of a pixel and of its gray, in 2 ** -FACTOR_BITS, and that of the mean gray in
    2 ** -FACTOR_BITS / 10,000.
    """
    b, c, s = _percents(view)
    one = 2**FACTOR_BITS
    own, gray = (round(one * factor / 10**6) for factor in (s * c * b, (100 - s) * c * b))
    return own, gray, one * (100 - c) * b


def _mix(pixels: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation.

    Args:
        pixels: uint8 [B, 3, S, S].
        factors: int64 [B, 3], of `_factors`.
    """
    values = pixels.float()
    red, green, blue = values.unbind(1)
    gray = (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    gray.add_(0.5).floor_()
    total = gray.sum(2).long().sum(1)  # a row's sum has no more than 24 bits, that of all may have
    mean = torch.div(factors[:, 2] * total, 10_000 * gray[0].numel(), rounding_mode="floor")
    settings = torch.stack([factors[:, 0], factors[:, 1], mean]).float().mul_(2**-FACTOR_BITS)
    own, of_gray, offset = settings.view(3, -1, 1, 1)
    gray.mul_(of_gray).add_(offset.add_(0.5))
    values.mul_(own[:, None]).add_(gray[:, None])
    return values.short().clamp_(0, 255).byte()  # from floats to bytes at once would take longer


def _mix_on_cpu(pixels: np.ndarray, factors: tuple[int, int, int]) -> None:
    """`_mix` of one image. OpenCV rounds to the nearest number; half of the last bit more, none
    lies between two.
    """
    red, green, blue = pixels
    sums = cv2.addWeighted(red, GRAY[0], green, GRAY[1], 0.5, dtype=cv2.CV_32F)
    gray = cv2.scaleAdd(blue.astype(np.float32), GRAY[2], sums).astype(np.uint8)
    own, of_gray, of_mean = factors
    mean = of_mean * int(cv2.sumElems(gray)[0]) // (10_000 * gray.size)
    one = 2.0**FACTOR_BITS
    for plane in pixels:
        cv2.addWeighted(plane, own / one, gray, of_gray / one, (mean + 0.5) / one, dst=plane)


def _blur(channels: Tensor, weights: Sequence[float]) -> Tensor:
    """The Gaussian along rows, then along columns, each rounded.

    Args:
        channels: uint8 [C, S, S].
        weights: Of `_gaussian`.
    """
    reach, side = len(weights) - 1, channels.shape[-1]
    wide = F.pad(channels.float()[None], (reach, reach, 0, 0), mode="replicate")[0]
    rows = _weighted(wide, weights, 1)[:, :, :side]
    high = F.pad(rows[None], (0, 0, reach, reach), mode="replicate")[0]
    return _weighted(high, weights, side)[:, :side].short().byte()


def _blur_on_cpu(pixels: np.ndarray, weights: Sequence[float]) -> None:
    """`_blur` of one image."""
    kernel, one = np.array([*weights[:0:-1], *weights], np.float32), np.ones(1, np.float32)
    for plane in pixels:
        rows = _filtered(plane, kernel, one)
        np.copyto(plane, _filtered(rows, one, kernel), casting="unsafe")


def _filtered(plane: np.ndarray, along_rows: np.ndarray, along_columns: np.ndarray) -> np.ndarray:
    sums = cv2.sepFilter2D(
        plane, cv2.CV_32F, along_rows, along_columns, delta=0.5, borderType=cv2.BORDER_REPLICATE
    )
    return np.floor(sums, out=sums)


def _weighted(padded: Tensor, weights: Sequence[float], unit: int) -> Tensor:
    """The weighted sums of neighbors, rounded: additions of an image and its shifted copies.

    A library's convolution may round (TF32, Winograd). Shifts of one long row are faster than
    those of many rows; what they mix across an edge lies in the margin.

    Args:
        padded: float32 [C, H, W], with a margin of `len(weights) - 1` neighbors on both sides.
        weights: Of `_gaussian`.
        unit: Distance of neighbors in memory.

    Returns:
        float32 of the shape of `padded`; all of the margin lies behind, and has no meaning.
    """
    line, reach = padded.flatten(), len(weights) - 1
    width = len(line) - 2 * reach * unit
    shifted = [line.narrow(0, place * unit, width) for place in range(2 * reach + 1)]
    sums, pair = torch.empty_like(line), torch.empty_like(line[:width])
    total = torch.mul(shifted[reach], weights[0], out=sums[:width])
    for tap in range(1, reach + 1):
        torch.add(shifted[reach - tap], shifted[reach + tap], out=pair)
        total.add_(pair, alpha=weights[tap])
    total.add_(0.5).floor_()
    return sums.view_as(padded)


@lru_cache(maxsize=1024)
def _gaussian(blur: int, side: int) -> tuple[float, ...]:
    """The weights of a Gaussian from the center outward; together, those beside it twice, 1."""
    sigma = blur / 1000 * side
    weights = [math.exp(-((tap / sigma) ** 2) / 2) for tap in range(math.ceil(REACH * sigma) + 1)]
    total, one = 2 * sum(weights) - weights[0], 2**WEIGHT_BITS
    beside = [round(one * weight / total) for weight in weights[1:]]
    return tuple(weight / one for weight in (one - 2 * sum(beside), *beside))


def _parts(places: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), DEVICE_BATCH):
        yield list(places[start : start + DEVICE_BATCH])


def _index(places: list[int], pixels: Tensor) -> Any:
    """Places as a slice where they are neighbors, which copies nothing, or else as a tensor."""
    if places[-1] - places[0] + 1 == len(places):
        return slice(places[0], places[-1] + 1)
    return _moved(torch.tensor(places), pixels)


def _moved(small: Tensor, pixels: Tensor) -> Tensor:
    """A small tensor on the device of the pixels; an accelerator's stream need not wait for it."""
    if pixels.device.type == "cuda":
        small = small.pin_memory()
    return small.to(pixels.device, non_blocking=True)
