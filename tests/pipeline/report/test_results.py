"""Results are read from the files of the stages, and refused if one is missing or foreign."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.results import (
    MetricValue,
    Results,
    format_gain,
    format_percent,
    format_score,
    format_speedup,
)
from tests.helpers.results import edit_json

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def test_numbers_are_shown_with_their_intervals() -> None:
    scores = {"top1": 0.8017, "t2i_median_rank": 4.0, "interval": {"top1": [0.778, 0.8262]}}
    assert format_score(MetricValue.of(scores, "top1")) == "0.802 [0.778, 0.826]"
    assert format_percent(MetricValue.of(scores, "top1")) == "80.2% [77.8, 82.6]"
    assert format_score(MetricValue.of(scores, "t2i_median_rank")) == "4"
    assert format_gain(MetricValue.of({"g": 0.0123, "interval": {"g": [-0.004, 0.028]}}, "g")) == (
        "+0.012 [-0.004, +0.028]"
    )
    assert format_percent(MetricValue(1.833, None)) == "183.3% [no interval]"
    assert (format_speedup(16.52), format_speedup(0.8)) == ("16.5x faster", "1.2x slower")
    assert (
        format_score(MetricValue.of(scores, "top5"))
        == format_percent(None)
        == format_score(MetricValue.of(None, "top1"))
        == ""
    )
    assert format_score(MetricValue.of({"t2i_median_rank": 1.0}, "t2i_median_rank")) == "1"


def test_results_read_what_the_stages_wrote(trained: Trained) -> None:
    paths, params = trained
    results = Results.read(params, paths)
    assert [row["epoch"] for row in results.history] == [1, 2]
    labels = [row.label for row in results.comparison()]
    assert labels[0] == "zero-shot top-1" and labels[-1] == "text to image, median rank"
    assert "linear probe top-1" in labels
    assert len(results.protocols()) == 3


def test_mlflow_gets_the_headlines_and_no_flood(trained: Trained) -> None:
    paths, params = trained
    results = Results.read(params, paths)
    found = results.metrics()
    assert found["zeroshot/top1"] == results.zero_shot["student"]["top1"]
    assert found["zeroshot/teacher_top1"] == results.zero_shot["teacher"]["top1"]
    low, high = results.retrieval["student"]["interval"]["t2i_r5"]
    assert (found["retrieval/t2i_r5_low"], found["retrieval/t2i_r5_high"]) == (low, high)
    bounded = {name.removesuffix("_low") for name in found if name.endswith("_low")}
    assert bounded == {
        "zeroshot/top1", "linear_probe/top1",
        "retrieval/i2t_r1", "retrieval/i2t_r5", "retrieval/t2i_r1", "retrieval/t2i_r5",
        "detection/base_ap50", "detection/held_out_ap50", "detection/all_ap50",
    }  # fmt: skip
    assert len([name for name in found if not name.startswith("efficiency/")]) <= 68
    assert found["efficiency/student_parameters"] == results.efficiency["student"]["parameters"]
    assert all(isinstance(value, int | float) for value in found.values())


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("metrics/zero_shot.json", "zero_shot"),
        ("metrics/linear_probe.json", "linear_probe"),
        ("metrics/retrieval.json", "retrieval"),
        ("metrics/efficiency.json", "efficiency"),
        ("metrics/distill.json", "distill"),
        ("metrics/history.csv", "distill"),
        ("out/student/run.json", "distill"),
        ("out/images/dataset.json", "prepare"),
    ],
)
def test_a_missing_result_names_the_stage_that_makes_it(
    copied: Trained, complains: Any, name: str, stage: str
) -> None:
    paths, params = copied
    (paths.root / name).unlink()
    with complains(name, f"dvc repro {stage}"):
        Results.read(params, paths)


@pytest.mark.parametrize("name", ["zero_shot", "linear_probe", "retrieval"])
def test_results_of_another_data_set_are_refused(
    copied: Trained, complains: Any, name: str
) -> None:
    paths, params = copied
    edit_json(
        paths.metrics / f"{name}.json",
        lambda values: values.update(photographs=values.pop("scenes")),
    )
    with complains(f"{name}.json", f"dvc repro {name}"):
        Results.read(params, paths)
