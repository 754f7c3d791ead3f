"""Reasons of rejected inputs are summed up, and kept where the stage fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.prepare.prepare import prepare
from pipeline.prepare.rejections import examples, summary


def entries(*reasons: str) -> list[dict[str, str]]:
    return [{"name": f"{n}.jpg", "reason": reason} for n, reason in enumerate(reasons)]


def test_a_summary_counts_reasons_and_names_inputs() -> None:
    rejected = entries(*["no caption"] * 5, "no such file", *["unreadable (a)", "unreadable (b)"])
    assert summary(rejected) == [
        "5 x no caption: 0.jpg, 1.jpg, 2.jpg, ...",
        "2 x unreadable: 6.jpg, 7.jpg",
        "1 x no such file: 5.jpg",
    ]
    assert summary(entries(*(f"reason {n}" for n in range(99))))[-1] == "and 89 other reasons"


def test_examples_show_each_reason_before_one_occurs_again() -> None:
    rejected = entries("no caption", "no caption", "no such file", "no caption")
    shown = "0.jpg: no caption; 2.jpg: no such file; 1.jpg: no caption; ..."
    assert examples(rejected) == shown
    assert examples(rejected[:2]) == "0.jpg: no caption; 1.jpg: no caption"


@pytest.fixture
def broken(tmp_path: Path, make_params: Callable[..., Params]) -> Callable[[float], Params]:
    """Params for 30 images, of which 4 are words and 2 are missing."""

    def make(max_rejected: float) -> Params:
        folder = tmp_path / "own" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(28):
            path = folder / f"{number:02d}.png"
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
            if number < 4:
                path.write_bytes(b"words")
        rows = "".join(f"{n:02d}.png,image {n}\n" for n in range(30))
        (folder.parent / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")
        section = {"source": "captions_csv", "path": str(folder.parent)}
        section |= {"captions_csv": {"val": 0.3, "test": 0.3}, "max_rejected": max_rejected}
        return make_params(prepare=section)

    return make


def test_a_failed_stage_prints_and_keeps_its_reasons(
    tmp_path: Path, broken: Callable[[float], Params], complains: Any, log: Any
) -> None:
    paths = Layout(tmp_path / "checkout")
    with complains("6 of 30 inputs cannot be used", paths.rejected, "not an image", "no such file"):
        prepare(broken(0.1), paths)
    assert "4 x not an image: " in log.text and "2 x no such file: " in log.text
    assert "manifests" not in log.text
    kept = json.loads(paths.rejected.read_text(encoding="utf-8"))
    assert sorted((entry["name"], entry["reason"]) for entry in kept) == [
        *((f"{n:02d}.png", "not an image") for n in range(4)),
        *((f"{n:02d}.png", "no such file") for n in (28, 29)),
    ]
    assert not [*paths.images.rglob("manifest.json"), *paths.images.rglob("dataset.json")]


def test_a_stage_that_ends_well_prints_its_reasons_and_drops_those_of_the_failure(
    tmp_path: Path, broken: Callable[[float], Params], complains: Any, log: Any
) -> None:
    paths = Layout(tmp_path / "checkout")
    with complains("6 of 30"):
        prepare(broken(0), paths)
    log.clear()
    prepare(broken(0.5), paths)
    assert "rejected 6 of 30 inputs" in log.text and "4 x not an image: " in log.text
    assert not paths.rejected.exists()
