"""Figures: a single epoch is visible, names from outside are text, and the README's figure is that
of `metrics/`.
"""

from __future__ import annotations

import io
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.report.figure_text import class_labels, plain_text
from pipeline.report.figures import (
    GRAY,
    MAX_LABELLED,
    STUDENT_COLOR,
    confusion_matrix,
    training_curves,
)
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


HOSTILE = [
    "$", "$5 bill$", "$\\frac{$", "a_b^{c}", "C:\\new\\table", "{0} %s", "<b>&amp;</b>", "[bold]",
    "two\nlines", "tab\there", "nul\0", "\x1b[31m", "\u202egnp", "مرحبا", "שלום", "日本",
    "🦄 unicorn", "e\u0301", "", " ", "x" * 500, "long " * 60 + "one", "long " * 60 + "two",
    "same", "same",
]  # fmt: skip


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("classes", [*([name, "cat"] for name in HOSTILE), HOSTILE])
def test_any_class_name_can_be_drawn_and_leaves_room_for_the_figure(classes: list[str]) -> None:
    numbers = np.arange(len(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # missing glyphs, and a layout that leaves no room
        image = pixels(confusion_matrix(numbers, numbers, classes))
    diagonal = (image == (0, 68, 27)).all(axis=2)  # the darkest color of the scale
    side = np.ptp(np.flatnonzero(diagonal.any(axis=1)))
    assert side > 0.3 * image.shape[0]


def test_labels_are_the_names_where_the_font_has_them() -> None:
    plain = ["$5 bill$", "a_b^{c}", "C:\\new", "<b>", "café", "Ω", "{0}"]
    assert class_labels(plain) == plain
    assert class_labels(["two\n lines", "日本", "", "ok"]) == [
        "two lines",
        "class 1",
        "class 2",
        "ok",
    ]
    start, end, *same = class_labels(["a" * 99, "a" * 90 + "the end", "same", "same"])
    assert start.startswith("aaa") and "…" in start and len(start) <= 32
    assert end.endswith("the end") and start != end
    assert same == ["class 2", "class 3"]


def test_dollar_signs_are_drawn_and_not_taken_for_formulas() -> None:
    numbers = np.arange(2)
    drawn = {confusion_matrix(numbers, numbers, [name, "cat"]) for name in ("$x$", "x", "\\$x\\$")}
    assert len(drawn) == 3


def test_figures_are_the_same_whatever_the_machines_matplotlibrc_says() -> None:
    numbers = np.arange(2)
    figure = confusion_matrix(numbers, numbers, ["$a$", "b"])
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red"}):
        assert confusion_matrix(numbers, numbers, ["$a$", "b"]) == figure
        with plain_text({"font.size": 7}):
            assert mpl.rcParams["font.size"] == 7 and not mpl.rcParams["text.parse_math"]


def test_more_classes_than_labels_fit_are_drawn_without_names() -> None:
    numbers = np.arange(MAX_LABELLED + 1)
    one, two = (
        confusion_matrix(numbers, numbers, [f"{name}{n}" for n in numbers]) for name in "ab"
    )
    assert one == two


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
    assert CliRunner().invoke(app, ["figure", "-o", "two.svg"]).exit_code == 0  # its own
    Path("mine.svg").write_text("<svg/>", encoding="utf-8")
    for name in ("mine.svg", "metrics"):
        result = CliRunner().invoke(app, ["figure", "-o", name])
        assert result.exit_code == 1 and f"{name} exists" in result.output
    assert Path("mine.svg").read_text(encoding="utf-8") == "<svg/>"


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
