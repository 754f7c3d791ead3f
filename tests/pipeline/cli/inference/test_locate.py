"""`kdeov locate`: a heat map over the image, and where it is in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from kdeov import Model

Command = Callable[..., Result]


def test_the_place_is_that_of_the_models_heat_map(kdeov: Command, here: Path) -> None:
    result = kdeov("locate", "photos/0.png", "--text", "a red ball", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    model = Model.open(here / "out" / "export")
    heatmap = model.heatmap("photos/0.png", model.class_embeddings(["a red ball"]))[0, 0]
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    scale = 60 / len(heatmap)
    assert found["peak"] == [int(10 + (column + 0.5) * scale), int((row + 0.5) * scale)]
    assert found["cosine"] == pytest.approx(heatmap.max(), abs=1e-4)
    assert found["size"] == [80, 60]


def test_the_map_is_drawn_over_the_whole_image(kdeov: Command, here: Path) -> None:
    result = kdeov("locate", "photos/0.png", "--text", "a red ball")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith("a red ball: ") and second == "heat map: 0.png.heatmap.png"
    drawn, image = (
        np.asarray(Image.open(here / name).convert("RGB"), dtype=int)
        for name in ("0.png.heatmap.png", "photos/0.png")
    )
    assert drawn.shape == image.shape
    assert (drawn != image).any(axis=2)[:, 10:70].mean() > 0.9


def test_a_second_run_replaces_its_own_map_and_no_file_of_others(
    kdeov: Command, here: Path
) -> None:
    arguments = ("locate", "photos/0.png", "--text", "a red ball")
    assert [kdeov(*arguments).exit_code for _ in range(2)] == [0, 0]
    before = (here / "photos" / "1.png").read_bytes()
    result = kdeov(*arguments, "-o", "photos/1.png")
    assert result.exit_code == 1 and "photos/1.png" in result.stderr
    assert (here / "photos" / "1.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos/0.png", "--text", " "], ["--text"]),
        (["photos/0.png", "--text", "caf\udce9"], ["'caf\\udce9'", "no text"]),
        (["photos/0.png", "--text", "a", "--templates", "\udce9 {}"], ["no text"]),
        (["absent.png", "--text", "a"], ["absent.png"]),
        (["photos", "--text", "a"], ["photos"]),
        (["photos/0.png", "--text", "a", "-o", "map.jpg"], ["map.jpg", "PNG"]),
        (["photos/0.png", "--text", "a", "-o", "photos/0.png/x.png"], ["photos/0.png/x.png"]),
        (["photos/0.png", "--text", "a", "--model", "photos"], ["photos"]),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(
    kdeov: Command, here: Path, arguments: list[str], words: list[str]
) -> None:
    before = sorted(here.rglob("*"))
    result = kdeov("locate", *arguments)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdeov locate: ") and all(word in line for word in words), line
    assert sorted(here.rglob("*")) == before
