"""Boxes as callers have them: mapped to what the model sees, and named where they are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.data.boxes import check_boxes, image_size, to_pixels_and_boxes
from kdeov.data.transform import ImageTransform

TRANSFORM = ImageTransform(size=32)


def mapped(images: Any, boxes: Any) -> list[list[float]]:
    pixels, found = to_pixels_and_boxes(images, boxes, TRANSFORM)
    assert len(pixels) == len(found) == 1
    return found[0].tolist()


def test_boxes_follow_the_centred_square_and_the_resize() -> None:
    image = Image.new("RGB", (128, 64))  # the square is x 32 to 96, at half its size
    assert mapped(image, [[40, 8, 60, 24]]) == [[4, 4, 14, 12]]
    assert mapped(image, [[0, 0, 128, 64]]) == [[0, 0, 32, 32]]
    assert mapped(image, [[-5, 10, 50, 90]]) == [[0, 5, 9, 32]]


def test_normalized_images_keep_their_boxes() -> None:
    boxes = [[1.5, 2.0, 30.0, 20.0]]
    assert mapped(torch.zeros(1, 3, 40, 70), boxes) == boxes


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (Image.new("L", (7, 5)), (7, 5)),
        (np.zeros((5, 7), np.uint8), (7, 5)),
        (np.zeros((5, 7, 3), np.uint8), (7, 5)),
        (np.zeros((3, 5, 7), np.uint8), (7, 5)),
        (torch.zeros(3, 5, 7, dtype=torch.uint8), (7, 5)),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), (7, 5)),
        (torch.zeros(3, 5, 7), (7, 5)),
    ],
)
def test_sizes_are_those_of_the_image_that_is_seen(image: Any, size: tuple[int, int]) -> None:
    assert image_size(image) == size
    assert mapped(image, [[0, 0, *size]]) == [[0, 0, *([32, 32] if not _floats(image) else size)]]


def _floats(image: Any) -> bool:
    return isinstance(image, torch.Tensor) and image.is_floating_point()


def test_a_rotated_photograph_has_the_size_that_a_person_sees() -> None:
    image = Image.new("RGB", (40, 20))
    image.getexif()[0x0112] = 6
    assert image_size(image) == (20, 40)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([70, 10, 90, 20], "outside of 64 x 48 pixels"),
        ([10, -20, 20, 0], "outside"),
        ([10, 10, 10, 20], "area"),
        ([50, 40, 30, 20], "area"),
        ([40, 30, 20, 10], "width and height"),
        ([float("nan"), 0, 5, 5], "not finite"),
        ([0, 0, float("inf"), 5], "not finite"),
    ],
)
def test_a_wrong_box_is_named_with_its_image(complains: Any, box: list[float], words: str) -> None:
    good = [1.0, 1.0, 9.0, 9.0]
    images = [Image.new("RGB", (64, 48))] * 3
    boxes = [[good, good], [good, box], [good, good]]
    with complains("image 1", "box 1", words):
        to_pixels_and_boxes(images, boxes, TRANSFORM)


def test_a_box_beside_the_centred_square_is_refused(complains: Any) -> None:
    with complains("image 0", "box 0", "centred square"):
        mapped(Image.new("RGB", (128, 64)), [[0, 0, 30, 30]])


@pytest.mark.parametrize(
    "boxes", [[], [[]], [[1, 2, 3]], [[[1, 2, 3, 4]], [[1, 2, 3, 4]]], "boxes", [[1, 2, 3, "x"]]]
)
def test_boxes_of_another_shape_are_refused(complains: Any, boxes: Any) -> None:
    with complains("boxes", "give [1, R, 4]"):
        mapped(Image.new("RGB", (64, 48)), boxes)


def test_boxes_are_cut_at_the_edges() -> None:
    boxes = torch.tensor([[-3.0, 2.0, 99.0, 30.0]])
    assert check_boxes(boxes, (64, 48), "image").tolist() == [[0, 2, 64, 30]]
