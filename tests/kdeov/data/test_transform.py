"""From an image to the normalized pixels of a tower."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from kdeov.data.transform import CLIP_MEAN, CLIP_STD, ImageTransform, to_tensor


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (97, 251), (20, 30)])
def test_images_are_prepared_as_clip_prepares_them(clip, tiny_clips, image, size, tmp_path):
    torch.save(tiny_clips["vit"].state_dict(), tmp_path / "clip.pt")
    _, clip_transform = clip.load(str(tmp_path / "clip.pt"), device="cpu")
    image = image(size)
    ours, theirs = ImageTransform(64)(image), clip_transform(image)
    assert ours.shape == theirs.shape == (3, 64, 64)
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_pixels_are_scaled_and_normalised():
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 3, 1, 3)
    normalised = ImageTransform().normalize(pixels)
    for channel, (mean, std) in enumerate(zip(CLIP_MEAN, CLIP_STD, strict=True)):
        expected = [(value / 255 - mean) / std for value in (0, 128, 255)]
        assert normalised[1, channel, 0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_are_taken(image, mode):
    image = image((70, 50)).convert(mode)
    pixels = ImageTransform(16).pixels(image)
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), torch.uint8)
    assert torch.equal(pixels, ImageTransform(16).pixels(image.convert("RGB")))


def test_an_image_becomes_a_tensor_of_its_pixels():
    image = Image.new("RGB", (3, 2))
    image.putpixel((2, 1), (1, 2, 3))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3) and tensor.sum() == 6
    assert tensor[:, 1, 2].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "transform",
    [ImageTransform(), ImageTransform(32, (0.5, 0.4, 0.3), (1.0, 1.0, 1.0), "bilinear")],
)
def test_a_transform_survives_json(transform):
    stored = json.loads(json.dumps(transform.to_dict()))
    assert stored == transform.to_dict()
    assert ImageTransform.from_dict(stored) == transform


def test_the_named_filter_is_used(image):
    image = image((64, 64))
    nearest, bicubic = (ImageTransform(20, interpolation=n) for n in ("nearest", "bicubic"))
    assert not torch.equal(nearest.pixels(image), bicubic.pixels(image))
    expected = to_tensor(image.resize((20, 20), Image.Resampling.NEAREST))
    assert torch.equal(nearest.pixels(image), expected)
