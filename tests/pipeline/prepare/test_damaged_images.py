"""Damaged and huge files are refused with a reason, in little memory and without a program."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.prepare import images as images
from pipeline.prepare.images import UnusableImage, decode_image
from tests.helpers.image_bytes import SIZE, accepts, animated, encoded, halves, opens, read, rotated


def test_no_image_starts_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    with pytest.raises(UnusableImage, match="not an image"):
        decode_image(encoded(halves(), "EPS"), None)
    assert started == []


@pytest.mark.filterwarnings("ignore")  # Pillow warns of it too
@pytest.mark.parametrize("limit", [SIZE[0] * SIZE[1] - 1, SIZE[0] * SIZE[1] // 3])
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    with pytest.raises(UnusableImage, match=f"more than {limit:,} pixels"):
        decode_image(encoded(halves(), "PNG"), None)


BOMB = """
import re, sys
from pathlib import Path
from pipeline.prepare.images import UnusableImage, decode_image
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
data, before = Path(sys.argv[1]).read_bytes(), peak()
try:
    decode_image(data, 64)
except UnusableImage as why:
    print(why)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_a_small_file_of_200_megapixels_is_refused_in_little_memory(
    tmp_path: Path, run_python: Any, kind: str
) -> None:
    path = tmp_path / "bomb"
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.new("L", (20_000, 10_000)).save(path, kind, **options)
    assert path.stat().st_size < 5_000_000
    why, kilobytes = run_python("-c", BOMB, str(path)).stdout.splitlines()
    assert "pixels" in why and int(kilobytes) < 50_000


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_is_accepted_exactly_where_all_of_it_can_be_decoded(options: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", **options)
    assert accepts(data)
    for end in [*range(0, len(data), 61), *range(len(data) - 50, len(data))]:
        assert not opens(data[:end]) and not accepts(data[:end]), end
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        assert accepts(bytes(damaged)) == opens(bytes(damaged))


def test_a_truncated_photograph_is_refused_wherever_it_ends(shared_data: Path) -> None:
    data = next((shared_data / "coco_mini" / "val2017").iterdir()).read_bytes()
    assert decode_image(data, None).jpeg == data
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(UnusableImage, match="truncated"):
            decode_image(data[: int(len(data) * share)], None)


KINDS = {
    "JPEG": encoded(halves(), "JPEG"),
    "rotated": rotated(),
    "PNG": encoded(halves(), "PNG"),
    "GIF": animated("GIF"),
    "TIFF": encoded(halves(), "TIFF", compression="tiff_lzw"),
    "WEBP": encoded(halves(), "WEBP"),
    "BMP": encoded(halves(), "BMP"),
}


@pytest.mark.filterwarnings("ignore")  # Pillow tells at length what it skips
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(1, 600),
)
def test_damaged_bytes_give_an_image_or_a_reason_and_nothing_else(
    kind: str, flips: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(KINDS[kind])
    for position, mask in flips:
        data[position % len(data)] ^= mask
    try:
        jpeg = decode_image(bytes(data[:cut]), 64).jpeg
    except UnusableImage as why:
        assert str(why)
    else:
        assert max(read(jpeg).size) <= 64
