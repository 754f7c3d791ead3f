"""The diagram of the pipeline has the counts of the run, and its boxes lie within it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from pipeline.report.charts.flow import LINE_LETTERS, Flow, flows

pytestmark = pytest.mark.slow  # the first of these tests trains


def lines(flow: Flow, title: str) -> list[str]:
    (box,) = (box for box in flow.boxes if box.title.startswith(title))
    return box.lines


def test_boxes_have_the_counts_of_the_run(reported: Any) -> None:
    results = reported.results
    for flow in flows(results, rejected=1234):
        assert lines(flow, "images") == ["24 for training", "12 val, 12 test", "1,234 rejected"]
        assert "72 of views" in lines(flow, "teacher's embeddings")  # 24 images x 3 views
        assert "2 epochs, 48 images" in lines(flow, "student")
        millions = results.efficiency["student"]["parameters"] / 1e6
        assert f"{millions:.2f} M parameters" in lines(flow, "student")
        assert lines(flow, "zero-shot") == ["64 classes", "12 images"]
        assert lines(flow, "retrieval") == ["12 images", "36 texts"]


def test_boxes_lie_side_by_side_within_the_diagram(reported: Any) -> None:
    for flow in flows(reported.results, 0):
        for box in flow.boxes:
            assert box.x >= 0 and box.x + box.width <= flow.width
            assert box.y >= 0 and box.y + box.height <= flow.height
        for one, two in combinations(flow.boxes, 2):
            apart = (
                one.x + one.width <= two.x or two.x + two.width <= one.x
                or one.y + one.height <= two.y or two.y + two.height <= one.y
            )  # fmt: skip
            assert apart, (one.title, two.title)


def test_a_run_without_boxes_and_tasks_has_a_diagram_of_what_it_has(reported: Any) -> None:
    results = replace(reported.results, zero_shot={}, linear_probe={}, retrieval={}, detection=None)
    for flow in flows(results, 0):
        titles = [box.title for box in flow.boxes]
        assert "zero-shot" not in titles and titles[-1] == "efficiency"
        assert lines(flow, "box head") == ["none for this data"]


def test_a_long_name_is_shortened_and_whole_in_a_title(reported: Any) -> None:
    results = reported.results
    named = replace(results, run=replace(results.run, teacher="t" * 400))
    for flow in flows(named, 0):
        (box,) = (box for box in flow.boxes if box.title.startswith("teacher, "))
        shown, whole = box.shown[0]
        assert len(shown) == LINE_LETTERS and shown.endswith("…") and whole == "t" * 400
