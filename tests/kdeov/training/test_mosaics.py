"""Mosaics: each tile is a whole image, shrunk, in its box."""

from __future__ import annotations

import pytest
import torch

from kdeov.training.mosaics import MIN_IMAGES, make_mosaics


def colors(count: int, side: int) -> torch.Tensor:
    """Images of one value each, from 1."""
    return torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 3, side, side)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("count", "side"), [(MIN_IMAGES, 32), (9, 64), (32, 96)])
def test_every_tile_shows_its_image_and_gaps_show_none(count: int, side: int, seed: int) -> None:
    pixels = colors(count, side)
    mosaic = make_mosaics(pixels, (0, 1, seed))
    assert mosaic.pixels.shape == (len(mosaic.rows), 3, side, side)
    assert len(set(mosaic.rows.flatten().tolist())) == mosaic.rows.numel() > count // 2
    left = mosaic.pixels.clone()
    for image, boxes, rows in zip(left, mosaic.boxes, mosaic.rows, strict=True):
        for box, row in zip(boxes.int().tolist(), rows.tolist(), strict=True):
            tile = image[:, box[1] : box[3], box[0] : box[2]]
            assert tile.numel() and torch.allclose(tile, pixels[row, 0, 0, 0])
            tile.zero_()
    assert not left.any()


def test_layouts_follow_from_the_step_and_the_place() -> None:
    pixels = torch.randn(16, 3, 64, 64)
    one, again = make_mosaics(pixels, (0, 2, 5, 0)), make_mosaics(pixels, (0, 2, 5, 0))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    others = [make_mosaics(pixels, (0, 2, step, 0)) for step in range(20)]
    assert {len(mosaic.rows[0]) for mosaic in others} == {4, 9}
    assert len({tuple(mosaic.boxes[0].flatten().tolist()) for mosaic in others}) == 20


def test_small_images_make_few_tiles() -> None:
    assert {len(make_mosaics(colors(9, 32), (n,)).rows[0]) for n in range(9)} == {4}
