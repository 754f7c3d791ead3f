"""Charts take their colors from the page, so that they are legible in light and dark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.report.charts.curves import training_charts
from pipeline.report.charts.efficiency import efficiency_charts
from pipeline.report.charts.svg import VARIABLES, chart
from pipeline.report.classes.calibration import calibrations
from pipeline.report.page.render import TEMPLATES
from tests.helpers.predicted import predictions

ROWS = [
    {"epoch": n, "train_total": 1 / n, "val_loss": 0.5 / n, "val_cosine": 0.5, "learning_rate": 0.1}
    for n in (1.0, 2.0, 3.0)
]


def test_charts_have_no_color_of_their_own_and_no_fixed_size() -> None:
    found = predictions("ab", [0, 0, 1], [0, 1, 1], [0, 0, 1], confidence=[0.6, 0.7, 0.9])
    diagrams = [c.diagram for c in calibrations(found, {"teacher": 0.1, "student": 0.2})]
    for svg in [*training_charts(ROWS), *diagrams]:
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert not re.search(r"<svg[^>]* (width|height)=", svg)
        assert "var(--student)" in svg or "var(--gray)" in svg
        assert 'role="img" aria-label="' in svg


def test_every_color_of_charts_is_a_variable_of_the_page_in_light_and_dark() -> None:
    style = (TEMPLATES / "page" / "style.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    for variable in VARIABLES.values():
        assert f"--{variable}:" in light and f"--{variable}:" in dark


def test_equal_numbers_give_equal_charts_and_ids_of_charts_differ() -> None:
    one, two = training_charts(ROWS), training_charts(ROWS)
    assert one == two
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in one]
    assert all(ids) and len({i for found in ids for i in found}) == sum(map(len, ids))


def test_one_epoch_is_a_point_on_the_curves() -> None:
    (loss, *_) = training_charts(ROWS[:1])
    assert loss.count("<use ") > training_charts([ROWS[0] | {"train_total": float("nan")}])[
        0
    ].count("<use ")


def test_text_of_a_chart_is_escaped() -> None:
    with chart("name", 'a "label" <b>') as drawn:
        drawn.axes.set_title("<script>&")
    assert "<script>" not in drawn.svg and "&lt;script&gt;&amp;" in drawn.svg
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in drawn.svg


@pytest.mark.slow
def test_accuracy_is_drawn_over_macs_and_over_latency_of_every_form(reported: Any) -> None:
    macs, latency = efficiency_charts(reported.results)
    deployed = reported.results.deployed
    assert "multiply-accumulates" in macs and "teacher" in macs and "ViT-B/32" in macs
    for form, name in zip(deployed.forms, ("PyTorch", "ONNX", "INT8"), strict=True):
        assert f"student, {name}, {form.latencies[0]:,.3g}" in latency
