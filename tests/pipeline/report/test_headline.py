"""The headline metrics: few, stable, and those that MLflow's page shows first."""

from __future__ import annotations

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.headline import HEADLINE, headline_metrics
from pipeline.report.results import Results
from tests.helpers.results import edit_json

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def test_a_run_has_at_most_fifteen_headline_metrics_and_the_scenes_have_all(
    trained: Trained,
) -> None:
    paths, params = trained
    results = Results.read(params, paths)
    found = headline_metrics(results)
    assert len(HEADLINE) <= 15 and found.keys() == HEADLINE.keys()
    assert found["accuracy/top1"] == results.zero_shot["student"]["top1"]
    assert found["retrieval/t2i_r5_retained"] == results.retrieval["retained"]["t2i_r5"]
    assert found["workload/macs"] == results.efficiency["student"]["macs"]


def test_the_first_groups_are_accuracy_retrieval_and_the_curves() -> None:
    groups = {name.partition("/")[0] for name in HEADLINE} | {"train", "val"}
    assert sorted(groups) == ["accuracy", "retrieval", "train", "val", "workload"]


def test_a_metric_that_the_data_lack_is_left_out_and_not_zero(copied: Trained) -> None:
    paths, params = copied
    edit_json(paths.metrics / "retrieval.json", lambda v: v["scenes"]["retained"].pop("t2i_r5"))
    found = headline_metrics(Results.read(params, paths))
    assert found.keys() == HEADLINE.keys() - {"retrieval/t2i_r5_retained"}
