"""Pixels of the runtime are those of ImageTransform, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.data.transform import ImageTransform
from kdeov.models.backbone import pad_to_stride as pad_tensor
from kdeov.runtime.images import pad_to_stride, pixel_batches
from tests.helpers.image_bytes import (
    CMYK,
    animated,
    encoded,
    gray16,
    halves,
    palette,
    rotated,
    without_adobe,
)

SIZES = [(1, 1), (7, 300), (64, 64), (97, 251), (300, 20), (640, 480)]
MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I;16"]


def pixels(images, size=32, interpolation="bicubic", stride=32, batch_size=16):
    return np.concatenate(
        list(pixel_batches(images, size, interpolation, stride, batch_size)), axis=0
    )


def noise(size, mode):
    if mode == "I;16":
        return gray16(40_000).resize(size)
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA")
    if mode in ("La", "RGBa"):
        return image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    return image.convert("RGB").convert(mode) if mode in ("LAB", "HSV") else image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_any_mode_and_size_are_those_of_the_transform(mode, size):
    image = noise(size, mode)
    assert image.size == size
    expected = ImageTransform(32).pixels(image).numpy()
    assert np.array_equal(pixels(image), expected[None])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("size", [16, 32, 224])
def test_every_filter_is_that_of_the_transform(interpolation, size):
    image = noise((251, 97), "RGB")
    expected = ImageTransform(size, interpolation=interpolation).pixels(image).numpy()
    assert np.array_equal(pixels(image, size, interpolation, stride=16), expected[None])


FILES = {
    "plain.jpg": encoded(halves(), "JPEG"),
    "turned.jpg": rotated(),
    "turned.png": rotated("PNG"),
    "print.jpg": without_adobe(encoded(CMYK, "JPEG")),
    "palette.png": encoded(palette(0), "PNG", transparency=0),
    "deep.png": encoded(gray16(30_000), "PNG"),
    "moving.gif": animated("GIF"),
    "moving.webp": animated("WEBP"),
    "plain.bmp": encoded(halves(), "BMP"),
    "deep.tiff": encoded(gray16(30_000), "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_upright_as_the_transform_reads_them(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    expected = ImageTransform(32).pixels(Image.open(tmp_path / name)).numpy()[None]
    assert np.array_equal(pixels(tmp_path / name), expected)
    assert np.array_equal(pixels(str(tmp_path / name)), expected)
    assert np.array_equal(pixels([tmp_path / name, tmp_path / name])[1:], expected)


def test_arrays_are_taken_in_all_their_shapes():
    gray = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    color = np.random.default_rng(1).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    one = pixels(Image.fromarray(gray))
    assert np.array_equal(pixels(gray), one)
    assert np.array_equal(pixels(gray[..., None]), one)
    assert np.array_equal(pixels(gray.astype(np.uint16) << 8), one)
    two = pixels([Image.fromarray(image) for image in color])
    assert np.array_equal(pixels(color), two)
    assert np.array_equal(pixels(list(color)), two)
    assert np.array_equal(pixels(image for image in color), two)
    clear = np.dstack([color[0], np.zeros((40, 50), np.uint8)])
    assert (pixels(clear) == 255).all()


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 3, 33, 70), (1, 3, 64, 32), (3, 20, 31)])
def test_edges_are_repeated_as_in_the_backbone(shape):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = torch.from_numpy(values.reshape(-1, *shape[-3:])).float()
    expected = pad_tensor(batch, 32).numpy()
    assert np.array_equal(
        pad_to_stride(values, 32), expected.reshape(*shape[:-2], *expected.shape[-2:])
    )


def test_images_are_read_a_batch_at_a_time():
    taken = []

    def images():
        for number in range(5):
            taken.append(number)
            yield Image.new("RGB", (8, 8), (number, 0, 0))

    batches = pixel_batches(images(), 8, "bicubic", 8, 2)
    assert next(batches)[:, 0, 0, 0].tolist() == [0, 1]
    assert taken == [0, 1]
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[2, 3], [4]]


@pytest.mark.parametrize(
    ("images", "word"),
    [
        ([], "no image was given"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no image was given"),
        (b"bytes", "bytes"),
        ({"a": 1}, "dict"),
        (3, "int"),
        ([None], "image 0 is of type NoneType"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 40, 50), np.uint8), "(3, 40, 50)"),
        (np.zeros((4, 0, 3), np.uint8), "(4, 0, 3)"),
        ([Image.new("RGB", (0, 4))], "0 x 4"),
        ([Image.new("RGB", (4, 4)), Image.new("F", (4, 4))], "image 1: pixels of 32 bits"),
    ],
)
def test_what_is_no_image_is_reported(images, word, mistake):
    with mistake(word):
        pixels(images)


@pytest.mark.parametrize(
    "content", [b"", b"no image", FILES["plain.jpg"][:300], b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_an_unreadable_file_is_reported_with_its_path(content, tmp_path, mistake):
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(FILES["plain.jpg"])
    bad.write_bytes(content)
    with mistake(bad):
        pixels([good, bad])


def test_a_missing_file_and_a_folder_are_reported(tmp_path, mistake):
    with mistake(tmp_path / "none.jpg", "no such file"):
        pixels(tmp_path / "none.jpg")
    with mistake(tmp_path, "not a file"):
        pixels(tmp_path)


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch, mistake):
    (tmp_path / "large.png").write_bytes(encoded(halves(), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own setting
    with mistake(tmp_path / "large.png", "pixels"):
        pixels(tmp_path / "large.png")
