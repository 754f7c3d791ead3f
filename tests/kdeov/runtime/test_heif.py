"""HEIC photographs, which phones make, are read where the extra `heif` is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from kdeov.runtime.images import read_image, square_pixels


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (32, 0, 64, 64))
    pillow_heif.from_pillow(image).save(tmp_path / "photo.HEIC", quality=95)
    return tmp_path / "photo.HEIC"


def test_a_heic_photograph_gives_its_pixels(photo: Path) -> None:
    pixels = square_pixels(photo, 64, "bicubic").astype(int)
    assert abs(pixels[:, 32, 8] - np.array([255, 0, 0])).max() < 25
    assert abs(pixels[:, 32, 56] - np.array([0, 0, 255])).max() < 25
    assert read_image(photo).size == (64, 64)


def test_without_the_package_the_extra_is_named(
    photo: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with complains(photo, "kdeov[heif]"):
        read_image(photo)


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_a_cut_one_is_named(photo: Path, complains: Any, keep: int) -> None:
    photo.write_bytes(photo.read_bytes()[:keep])
    with complains(photo, "unreadable"):
        read_image(photo)
