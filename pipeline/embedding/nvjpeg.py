"""JPEGs decoded by the GPU (nvJPEG), and their crops resized there.

nvJPEG rounds otherwise than libjpeg and repeats the pixels of subsampled colors, so embeddings
differ from those of images that a CPU decodes; the identity of a cache says which one it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.rendering import NATIVE
from kdeov.data.views import View
from kdeov.errors import ConfigError, DataError, first_line

CHUNK = 256  # images that are decoded together; at 1024 x 1024 pixels they take 0.8 GB


def decoded_views(
    keys: Sequence[str],
    jpegs: Sequence[bytes],
    views: Sequence[Sequence[View]],
    size: int,
    device: str | torch.device,
    interpolation: str = "bicubic",
) -> Tensor:
    """The first step of rendering (see `kdeov.data.rendering.crop`), on a device.

    Args:
        keys: Names of N images, for messages.
        jpegs: N files.
        views: The views of each image.
        size: Side of the result, pixels.
        device: A GPU; on `cpu`, libjpeg decodes and the same code crops.
        interpolation: Pillow's name of the filter, `bilinear` or `bicubic`.

    Returns:
        uint8 [V, 3, size, size], the V views of all images in order.

    Raises:
        ConfigError: The filter is another one.
        DataError: A file cannot be decoded; names its key.
    """
    if interpolation not in NATIVE:
        raise ConfigError(
            f"embed.decoder is nvjpeg, and the teacher resizes with {interpolation}, which a GPU "
            "cannot; set it to cpu"
        )
    parts: list[Tensor] = []
    for start in range(0, len(jpegs), CHUNK):
        chunk = slice(start, start + CHUNK)
        decoded = _decoded(keys[chunk], jpegs[chunk], torch.device(device))
        for pixels, of_image in zip(decoded, views[chunk], strict=True):
            parts += [_crop(pixels, view, size, interpolation) for view in of_image]
    return torch.cat(parts)


def _decoded(keys: Sequence[str], jpegs: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """uint8 [3, H, W] of each file."""
    files = [torch.from_numpy(np.frombuffer(bytearray(jpeg), np.uint8)) for jpeg in jpegs]
    try:
        return _decode(files, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as together:
        # the decoder says nothing of which file it was
        failures = list(_failures(keys, files, device))
        if len(failures) == len(files) > 1:
            raise ConfigError(
                f"nvJPEG decodes no image ({first_line(together)}); set embed.decoder to cpu"
            ) from together
        key, error = failures[0] if failures else (f"one of {keys[0]} to {keys[-1]}", together)
        raise DataError(
            f"{key}: nvJPEG cannot decode it ({first_line(error)}); set embed.decoder to cpu, or "
            "run `dvc repro -f prepare`"
        ) from together


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # torchvision decodes on a stream of its own, which waits for no other: it could write where
        # kernels of this stream still read crops of earlier images
        torch.cuda.current_stream(device).synchronize()
    with warnings.catch_warnings():  # of 0.29, which names a package that is not here
        warnings.simplefilter("ignore")
        return decode_jpeg(files, ImageReadMode.RGB, device)


def _failures(
    keys: Sequence[str], files: list[Tensor], device: torch.device
) -> Iterator[tuple[str, RuntimeError]]:
    for key, file in zip(keys, files, strict=True):
        try:
            _decode([file], device)
        except RuntimeError as error:
            yield key, error


def _crop(pixels: Tensor, view: View, size: int, interpolation: str) -> Tensor:
    """A view [1, 3, size, size] of an image [3, H, W], before its colors change. The filter of a
    GPU takes floats alone.
    """
    rows = slice(view.top, view.top + view.height)
    part = pixels[None, :, rows, view.left : view.left + view.width].float()
    shown = F.interpolate(part, (size, size), mode=interpolation, antialias=True)
    shown = shown.round_().clamp_(0, 255).to(torch.uint8)
    return shown.flip(3) if view.flip else shown
