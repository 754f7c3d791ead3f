"""Figures: a single epoch is visible, and the README's figure is that of `metrics/`."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.report.figures import GRAY, STUDENT_COLOR, training_curves
from pipeline.report.results_figure import STUDENT, TEACHER, TEXT, results_figure
from tests.helpers.results import edit_json


def test_one_epoch_is_a_point_on_the_curves() -> None:
    row = {"train_total": 1.0, "val_loss": 0.5, "val_cosine": 0.5, "learning_rate": 0.1}
    point, none = (
        np.asarray(Image.open(io.BytesIO(training_curves([row | {"epoch": epoch}]))).convert("RGB"))
        for epoch in (1.0, float("nan"))
    )
    colors = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (STUDENT_COLOR, GRAY)]
    for color in colors:
        drawn, legend = ((image == color).all(axis=2).sum() for image in (point, none))
        assert drawn > legend


def test_the_committed_figure_is_that_of_the_committed_metrics(root: Path) -> None:
    drawn = results_figure(root / "metrics")
    assert (root / "docs" / "results.svg").read_bytes() == drawn, "run `kdeov figure`"


def test_equal_metrics_give_an_equal_small_figure_without_a_date(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    monkeypatch.chdir(tmp_path)
    for name in ("one.svg", "two.svg"):
        result = CliRunner().invoke(app, ["figure", "-o", name])
        assert result.exit_code == 0, result.output
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two and len(one) < 60_000
    assert b"dc:date" not in one and b"student, 64 px" in one


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_colors_of_the_figure_are_legible_in_light_and_dark(background: str) -> None:
    def luminance(color: str) -> float:  # WCAG 2.2, relative luminance
        shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for color in (TEXT, STUDENT, TEACHER):
        low, high = sorted(luminance(c) for c in (color, background))
        assert (high + 0.05) / (low + 0.05) >= 4
    svg = results_figure(Path(__file__).parents[3] / "metrics").decode()
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == {TEXT, STUDENT, TEACHER}


def test_without_metrics_of_the_teacher_there_is_no_figure(
    root: Path, tmp_path: Path, complains: Any
) -> None:
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    edit_json(tmp_path / "metrics" / "zero_shot.json", lambda v: v["scenes"].pop("retained"))
    with complains("zero_shot.json"):
        results_figure(tmp_path / "metrics")
