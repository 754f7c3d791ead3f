"""Mistakes in params or data: one line with what is wrong and where, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkouts import Checkout

CSV = "image,caption\na.jpg,a dog\n"


@pytest.fixture(scope="module")
def checkout(new_checkout: Callable[[], Checkout]) -> Checkout:
    return new_checkout()


@pytest.fixture
def params(checkout: Checkout) -> Any:
    """Params as they were, after each test."""
    path = checkout.path / "params.yaml"
    before = path.read_text(encoding="utf-8")
    yield checkout.change
    path.write_text(before, encoding="utf-8")


def error_line(checkout: Checkout, stage: str) -> str:
    """The error line of a stage that cannot run."""
    result = checkout.stage(stage, check=False)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith(f"{stage}: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    # what is left of a stage that failed is told by its manifest, which is written last
    assert not [*(checkout.path / "out").rglob("manifest.json"), *checkout.path.glob("out/teacher")]
    return lines[0]


def test_a_mistyped_key_is_named_with_the_right_one(checkout: Checkout, params: Any) -> None:
    params({"distill": {"learning_rat": 1}})
    line = error_line(checkout, "prepare")
    assert "distill.learning_rat" in line and "learning_rate?" in line


def test_a_view_count_of_zero_is_refused(checkout: Checkout, params: Any) -> None:
    params({"embed": {"views": 0}})
    line = error_line(checkout, "embed")
    assert "params.yaml: embed.views" in line and "1" in line


def test_a_missing_folder_is_named(checkout: Checkout, params: Any, tmp_path: Path) -> None:
    params({"prepare": {"source": "captions_csv", "path": str(tmp_path / "nowhere")}})
    assert str(tmp_path / "nowhere") in error_line(checkout, "prepare")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,text\na.jpg,a dog\n", "file, text"),
        ("image,caption\n", "empty"),
        (CSV, "empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(
    checkout: Checkout, params: Any, tmp_path: Path, table: str, words: str
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.csv").write_text(table, encoding="utf-8")
    params({"prepare": {"source": "captions_csv", "path": str(tmp_path)}})
    assert words in error_line(checkout, "prepare")


def test_too_many_unusable_images_fail_the_stage(
    checkout: Checkout, params: Any, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    names = [f"{n}.jpg" for n in range(40)]
    for name in names:
        (tmp_path / "images" / name).write_bytes(b"not an image")
    rows = "".join(f"{name},a dog\n" for name in names)
    (tmp_path / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")
    shares = {"val": 0.3, "test": 0.3}
    params({"prepare": {"source": "captions_csv", "path": str(tmp_path), "captions_csv": shares}})
    line = error_line(checkout, "prepare")
    assert "40 of 40" in line


@pytest.mark.parametrize("name", ["ViT-B/99", "/no/such/weights.pt"])
def test_a_teacher_that_does_not_exist_is_named(checkout: Checkout, params: Any, name: str) -> None:
    params({"teacher": {"source": "clip", "clip": {"model": name}}})
    line = error_line(checkout, "teacher")
    assert name in line and "ViT-B/32" in line
