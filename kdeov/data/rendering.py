"""Rendering: from an encoded image and a view to the pixels that teacher and student see.

The first step, `crop`, decodes, crops, resizes and flips on a CPU. The second, `adjust_colors_`
(see `kdeov.data.colors`), can run on any device. Both compute with integers, so that every machine
gives the same bytes.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdeov.data.colors import adjust_colors_
from kdeov.data.views import View, center_view
from kdeov.errors import DataError, first_line

# by which libjpeg reduces an image while it decodes, and OpenCV's name of it
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_REDUCED_COLOR_2 & ~cv2.IMREAD_COLOR),
    4: cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_REDUCED_COLOR_4 & ~cv2.IMREAD_COLOR),
    8: cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_REDUCED_COLOR_8 & ~cv2.IMREAD_COLOR),
}
# Sides of a reduced crop, as shares of the output's: their geometric mean, and the shorter one.
# Measured on photographs, a crop enlarged by 16/15 keeps 0.65 of a Lanczos filter's energy above
# half of the highest frequency; one reduced by 15/14 keeps 0.71, one of the whole image 0.82.
MIN_MEAN_SIDE, MIN_SIDE = 15 / 16, 3 / 4
START, MARKER = b"\xff\xd8", b"\xff"  # of a JPEG
FRAMES = (0xC0, 0xC1, 0xC2)  # markers of baseline, extended and progressive frames
NATIVE = ("bilinear", "bicubic")  # filters that torch has for uint8; Pillow has the others


class StoredImage:
    """An image of a shard, decoded at most once at each scale.

    Args:
        data: The encoded image: a JPEG, or another format, which Pillow decodes.

    Raises:
        DataError: It is no image.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        size = _jpeg_size(data)
        self._jpeg = size is not None
        self.size: tuple[int, int] = size or self._size_by_pillow()
        """Width and height, pixels."""
        self._decoded: dict[int, np.ndarray] = {}

    def scale(self, view: View, size: int) -> int:
        """The scale at which a view is decoded: the largest n at which 1 / n of the crop has about
        as many pixels as the output (see `MIN_MEAN_SIDE`). View 0 is decoded whole, as the runtime
        of an export does it.

        Args:
            view: The view.
            size: Side of the output, pixels.
        """
        if not self._jpeg or view == center_view(self.size):
            return 1
        area, side = view.width * view.height, min(view.width, view.height)
        return max(
            n
            for n in REDUCED
            if n == 1 or (area >= (MIN_MEAN_SIDE * n * size) ** 2 and side >= MIN_SIDE * n * size)
        )

    def pixels(self, scale: int = 1) -> np.ndarray:
        """uint8 [H, W, 3] of the image at 1 / scale, sides rounded up.

        Args:
            scale: 1; for a JPEG also 2, 4 or 8.

        Raises:
            DataError: The image is damaged.
        """
        if scale not in self._decoded:
            self._decoded[scale] = self._decode(scale)
        return self._decoded[scale]

    def _size_by_pillow(self) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                return image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(first_line(error)) from error

    def _decode(self, scale: int) -> np.ndarray:
        """uint8 [H, W, 3]. OpenCV decodes JPEGs: its libjpeg gives the bytes of Pillow's, and the
        copies from Pillow to an array would cost a tenth more.
        """
        try:
            if self._jpeg:
                encoded = np.frombuffer(self._data, np.uint8)
                decoded = cv2.imdecode(encoded, REDUCED[scale] | cv2.IMREAD_IGNORE_ORIENTATION)
                if decoded is None:
                    raise _unreadable("truncated or damaged")
                return decoded
            with Image.open(io.BytesIO(self._data)) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, cv2.error) as error:
            raise _unreadable(first_line(error)) from error


def crop(image: StoredImage, view: View, size: int, interpolation: str = "bicubic") -> Tensor:
    """The first step of rendering: decodes, crops, resizes with antialiasing, and flips.

    Args:
        image: The image.
        view: The view; its colors are not changed here.
        size: Side of the result, pixels; a view can be rendered at any size.
        interpolation: Pillow's name of the filter.

    Returns:
        uint8 [3, size, size].

    Raises:
        DataError: The image is damaged.
    """
    scale = image.scale(view, size)
    pixels = image.pixels(scale)
    left, right = _span(view.left, view.width, scale, pixels.shape[1])
    top, bottom = _span(view.top, view.height, scale, pixels.shape[0])
    part = pixels[top:bottom, left:right]
    if interpolation in NATIVE:
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)  # channels last: no copy
        resized = F.interpolate(batch, (size, size), mode=interpolation, antialias=True)
        shown = resized[0].permute(1, 2, 0).numpy()
    else:
        filter_ = Image.Resampling[interpolation.upper()]
        shown = np.array(Image.fromarray(part).resize((size, size), filter_))
    planes = np.empty((3, size, size), np.uint8)
    cv2.split(cv2.flip(shown, 1) if view.flip else shown, list(planes))
    return torch.from_numpy(planes)


def render(image: StoredImage, view: View, size: int, interpolation: str = "bicubic") -> Tensor:
    """Both steps of rendering, on the CPU: uint8 [3, size, size] (see `crop`)."""
    return adjust_colors_(crop(image, view, size, interpolation)[None], [view])[0]


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG in color or gray, from its header: opening it with Pillow takes as
    long as a twentieth of decoding. None for other JPEGs, such as CMYK, and other formats.
    """
    place = 2
    while data[:2] == START and data[place : place + 1] == MARKER and place + 9 < len(data):
        kind = data[place + 1]
        if kind in FRAMES:
            height, width = (int.from_bytes(data[place + n : place + n + 2], "big") for n in (5, 7))
            plain = data[place + 4] == 8 and data[place + 9] in (1, 3) and width and height
            return (width, height) if plain else None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _span(start: int, length: int, scale: int, side: int) -> tuple[int, int]:
    """The first pixel of a crop at 1 / scale, and that behind the last: one at least."""
    first = min((start + scale // 2) // scale, side - 1)
    return first, max(first + 1, min((start + length + scale // 2) // scale, side))


def _unreadable(reason: str) -> DataError:
    return DataError(f"the image cannot be decoded ({reason})")
