"""Images as shards store them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from kdeov.data.rendering import StoredImage


def lossless(image: Image.Image) -> StoredImage:
    """An image that is always decoded whole, without a loss."""
    return StoredImage(encoded(image, "PNG"))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
