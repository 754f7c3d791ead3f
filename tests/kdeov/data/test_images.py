"""Images of every mode as a person sees them: the reader of `prepare` and of the Python API."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kdeov.data.images import image_of_array, to_rgb
from kdeov.errors import DataError
from pipeline.prepare.images import decode_image
from tests.helpers.image_bytes import (
    BLUE,
    CMYK,
    RED,
    SIZE,
    WHITE,
    animated,
    encoded,
    gray16,
    halves,
    palette,
    rotated,
    without_adobe,
)

CLEAR, HALF = (*BLUE, 0), (*BLUE, 128)
PALE = (127, 127, 255)  # blue at half its strength, on white


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def premultiplied(mode: str, left: tuple[int, ...], right: tuple[int, ...]) -> Image.Image:
    """An image of a mode that files never have, with colors already multiplied by their alpha."""
    pixels = np.array(halves(left, right, mode[:-1] + "A"))
    return Image.frombytes(mode, SIZE, pixels.tobytes())


def alpha_palette() -> Image.Image:
    """A palette whose second color is clear."""
    image = halves(0, 1, "P")
    image.putpalette([*RED, 255, *BLUE, 0], "RGBA")
    return image


def wide(dtype: str) -> Image.Image:
    return Image.fromarray(np.full(SIZE[::-1], 200 * 257, dtype))


GRAY = (200,) * 3
IN_MEMORY = {
    "L": (halves(200, 50, "L"), GRAY, (50,) * 3),
    "1": (halves(1, 0, "1"), WHITE, (0,) * 3),
    "P": (palette(1), RED, WHITE),
    "P-clear-first": (palette(0), WHITE, BLUE),
    "P-alpha-palette": (alpha_palette(), RED, WHITE),
    "PA": (halves((*RED, 255), CLEAR, "RGBA").quantize(4).convert("PA"), RED, WHITE),
    "RGBA-clear": (halves((*RED, 255), CLEAR, "RGBA"), RED, WHITE),
    "RGBA-half": (halves((*RED, 255), HALF, "RGBA"), RED, PALE),
    "RGBa": (premultiplied("RGBa", (*RED, 255), (0, 0, 128, 128)), RED, PALE),
    "RGBX": (halves(RED, BLUE).convert("RGBX"), RED, BLUE),
    "LA": (halves((9, 255), (9, 0), "LA"), (9,) * 3, WHITE),
    "La": (premultiplied("La", (9, 255), (0, 0)), (9,) * 3, WHITE),
    "CMYK": (CMYK, RED, BLUE),
    "YCbCr": (halves().convert("YCbCr"), RED, BLUE),
    "HSV": (halves().convert("HSV"), RED, BLUE),
    "I;16": (wide("<u2"), GRAY, GRAY),
    "I;16B": (wide(">u2"), GRAY, GRAY),
}
FILES = {
    "rotated-jpeg": rotated("JPEG"),
    "rotated-png": rotated("PNG"),
    "rotated-webp": rotated("WEBP"),
    "cmyk": encoded(CMYK, "JPEG"),
    "cmyk-unmarked": without_adobe(encoded(CMYK, "JPEG")),
    "cmyk-tiff": encoded(CMYK, "TIFF"),
    "gray-jpeg": encoded(halves(200, 50, "L"), "JPEG"),
    "16-bit": encoded(gray16(128 * 257), "PNG"),
    "16-bit-tiff": encoded(gray16(200 * 257), "TIFF"),
    "16-bit-pgm": encoded(gray16(200 * 257), "PPM"),
    "16-bit-jp2": encoded(gray16(200 * 257), "JPEG2000"),
    "16-bit-clear": encoded(gray16(9), "PNG", transparency=9),
    "palette": encoded(palette(1), "PNG", transparency=1),
    "rgb-clear": encoded(halves(), "PNG", transparency=BLUE),
    "gif": animated("GIF"),
    "mpo": animated("MPO"),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_every_mode_becomes_what_a_person_sees(name: str) -> None:
    image, left, right = IN_MEMORY[name]
    rgb = to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", SIZE)
    for x, color in ((8, left), (SIZE[0] - 8, right)):
        assert rgb.getpixel((x, 12)) == pytest.approx(color, abs=2)


@pytest.mark.parametrize("name", FILES)
def test_prepare_stores_the_image_that_the_reader_gives(name: str) -> None:
    stored = np.asarray(opened(decode_image(FILES[name], None).jpeg), dtype=int)
    read = np.asarray(to_rgb(opened(FILES[name])), dtype=int)
    assert read.shape == stored.shape
    assert np.abs(read - stored).mean() < 3  # JPEG


@pytest.mark.parametrize("name", [*IN_MEMORY, *FILES])
def test_an_embedding_is_that_of_the_image_in_rgb(model_of, apart, name: str) -> None:
    model = model_of()
    image = IN_MEMORY[name][0] if name in IN_MEMORY else opened(FILES[name])
    rgb = Image.fromarray(np.asarray(to_rgb(image)))
    assert apart(model.encode_image(image), model.encode_image(rgb)) < 1e-5


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_level_are_refused(model_of, mistake, mode: str) -> None:
    image = halves(200, 50, "L").convert(mode)
    with mistake("32 bits"):
        to_rgb(image)
    with mistake("image 1", "32 bits"):
        model_of().encode_image([halves(), image])


def test_a_truncated_file_is_one_line(model_of, mistake) -> None:
    data = encoded(halves(), "PNG")
    with mistake("image 0"):
        model_of().encode_image(opened(data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("values", "mode", "color"),
    [
        (np.full((2, 3), 7, np.uint8), "L", 7),
        (np.full((2, 3, 1), 7, np.uint8), "L", 7),
        (np.full((2, 3, 2), 7, np.int64), "LA", (7, 7)),
        (np.full((2, 3, 3), 255, np.int32), "RGB", WHITE),
        (np.full((2, 3, 4), 7, np.uint8), "RGBA", (7,) * 4),
        (np.full((2, 3), 200 * 257, np.uint16), "L", 200),
        (np.full((2, 3, 3), 200 * 257, ">u2"), "RGB", GRAY),
    ],
)
def test_integers_are_pixels(values, mode, color) -> None:
    image = image_of_array(values)
    assert (image.mode, image.size, image.getpixel((2, 1))) == (mode, (3, 2), color)


@pytest.mark.parametrize("value", [-1, 256])
def test_integers_beyond_eight_bits_are_refused(value: int) -> None:
    with pytest.raises(DataError, match=str(value)):
        image_of_array(np.full((2, 3, 3), value))
