"""Training images and their boxes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdeov.detection.augment import BoxAugmentation, BoxedImage, BoxedPixels, rng_of

AUGMENTATION = BoxAugmentation(side=96, mosaic=0.5)
RED = np.array([255, 0, 0])


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> BoxedImage:
    """A red box on black."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), box)
    return BoxedImage(image, np.array([box], dtype=np.float32), np.array([False]))


def redness(item: BoxedPixels) -> np.ndarray:
    return (item.pixels[0] > 200) & (item.pixels[1] < 60)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tiled", [True, False])
def test_boxes_are_where_the_objects_are(seed: int, tiled: bool) -> None:
    rng = rng_of(0, 0, str(seed))
    items = [painted((80, 50), (10, 10, 50, 40)), painted((40, 90), (5, 20, 35, 60))] * 2
    found = AUGMENTATION.tiled(items, rng) if tiled else AUGMENTATION.single(items[seed % 2], rng)
    inside = np.zeros((96, 96), dtype=bool)
    outside = np.ones((96, 96), dtype=bool)
    for left, top, right, bottom in found.boxes:
        inside[int(np.ceil(top)) + 2 : int(bottom) - 2, int(np.ceil(left)) + 2 : int(right) - 2] = 1
        outside[max(0, int(top) - 2) : int(bottom) + 3, max(0, int(left) - 2) : int(right) + 3] = 0
    red = redness(found)
    assert red[inside].all()
    assert not red[outside].any()
    assert len(found.boxes) == (4 if tiled else 1)


def test_an_input_follows_from_seed_epoch_and_key() -> None:
    item = painted((80, 50), (10, 10, 50, 40))
    drawn = [
        AUGMENTATION.single(item, rng_of(*entropy)).pixels
        for entropy in ((0, 0, "a"), (0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    ]
    same = [np.array_equal(drawn[0], other) for other in drawn[1:]]
    assert same == [True, False, False, False]


def test_an_object_that_is_cut_off_is_neither_learned_nor_background() -> None:
    item = painted((96, 96), (0, 0, 8, 96))
    cut = 0
    for seed in range(60):
        found = AUGMENTATION.single(item, rng_of(0, 0, str(seed)))
        for box, crowd in zip(found.boxes, found.crowd, strict=True):
            assert (box >= 0).all() and (box <= 96).all()
            cut += int(crowd)
    assert cut


def test_an_image_without_boxes_stays_one() -> None:
    item = BoxedImage(Image.new("RGB", (30, 40)), np.zeros((0, 4), np.float32), np.zeros(0, bool))
    for found in (
        AUGMENTATION.single(item, rng_of(0, 0, "a")),
        AUGMENTATION.tiled([item] * 4, rng_of(0, 0, "a")),
    ):
        assert found.boxes.shape == (0, 4)
        assert found.crowd.shape == (0,)
