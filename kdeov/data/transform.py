"""From an image to the normalized pixels of a CLIP tower; part of every cache's identity."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kdeov.data.square import center_square, channels_first

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageTransform:
    """Resizes to a square, scales to [0, 1] and normalizes. The crop is a `View` (see
    `kdeov.data.views`).

    Attributes:
        size: Side of the square, pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        interpolation: Pillow's name of the filter; antialiased.
        crop: The crop of an image without a view; `center` is the largest centred square.
    """

    size: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"
    crop: str = "center"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageTransform:
        """Reads what `to_dict` returned."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def to_dict(self) -> dict[str, Any]:
        """The fields, in JSON types."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's filter."""
        return Image.Resampling[self.interpolation.upper()]

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] to normalized float32 of the same shape."""
        mean, std = _levels(self.mean, pixels.device), _levels(self.std, pixels.device)
        return (pixels.float() - mean) / std

    def pixels(self, image: Image.Image) -> Tensor:
        """The centred square of an image as uint8 [3, size, size]; any mode (see `to_rgb`).

        Raises:
            DataError: The pixels are 32-bit numbers.
        """
        return torch.from_numpy(center_square(image, self.size, self.interpolation))

    def __call__(self, image: Image.Image) -> Tensor:
        """The normalized centred square of an image: float32 [3, size, size]."""
        return self.normalize(self.pixels(image))


@functools.lru_cache(maxsize=32)
def _levels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values in [0, 1] as levels [3, 1, 1] of a device. They stay there: each copy to a GPU would
    wait until it is idle.
    """
    with torch.inference_mode(False):
        return (torch.tensor(values, device="cpu").view(3, 1, 1) * 255).to(device)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(channels_first(image))
