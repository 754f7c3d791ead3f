"""The centred square of an image, without torch: `ImageTransform` and the runtime of exports read
images with it, so that both see the same bits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from kdeov.data.images import to_rgb


def center_square(image: Image.Image, size: int, interpolation: str) -> np.ndarray:
    """The largest centred square of an image, resized.

    Args:
        image: Of any mode (see `to_rgb`).
        size: Side of the result, pixels.
        interpolation: Pillow's name of the filter; antialiased.

    Returns:
        uint8 [3, size, size].

    Raises:
        DataError: The pixels are 32-bit numbers.
    """
    image = to_rgb(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    filter_ = Image.Resampling[interpolation.upper()]
    # cropped first, as views are: with `box`, pixels beside the square would reach into its edges
    square = image.crop((left, top, left + side, top + side)).resize((size, size), filter_)
    return channels_first(square)


def channels_first(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 [3, H, W]."""
    # a copy, always: what Pillow lends cannot be written to
    return np.array(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1), order="C")
