"""A candidate is no worse than the champion on the same test, within the champion's interval."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.report.registry.comparison import compare, read_scores, write_scores
from pipeline.report.registry.scores import measured_on
from tests.helpers.registry import score

TOP1 = "zeroshot/top1"


def problems(champion: Any, candidate: Any, named: Any = None) -> list[str]:
    found = compare(champion, candidate, named)
    return [problem for one in found if (problem := one.problem())]


@pytest.mark.parametrize(
    ("value", "is_worse"), [(0.95, False), (0.9, False), (0.881, False), (0.879, True)]
)
def test_a_value_below_the_interval_is_worse(value: float, is_worse: bool) -> None:
    assert bool(problems({TOP1: score(0.9)}, {TOP1: score(value)})) == is_worse


@pytest.mark.parametrize(("value", "is_worse"), [(1.0, False), (5.0, False), (5.1, True)])
def test_a_rank_is_worse_where_it_is_larger(value: float, is_worse: bool) -> None:
    name = "retrieval/i2t_median_rank"
    champion, candidate = {name: score(4, half_width=1)}, {name: score(value)}
    assert bool(problems(champion, candidate, [name])) == is_worse


def test_no_number_is_no_reason_to_promote() -> None:
    assert problems({TOP1: score(0.9)}, {TOP1: score(math.nan)})


def test_numbers_of_another_test_are_not_compared() -> None:
    (problem,) = problems({TOP1: score(0.5)}, {TOP1: score(0.9, test="512 test images")})
    assert "another test" in problem and "1,024" in problem and "512" in problem


def test_a_metric_that_only_the_champion_has_is_a_problem() -> None:
    champion = {TOP1: score(0.5), "detection/all_ap50": score(0.5)}
    (problem,) = problems(champion, {TOP1: score(0.5)})
    assert "detection/all_ap50" in problem
    assert problems(champion, {TOP1: score(0.5)}, [TOP1]) == []


def test_metrics_count_that_are_named(complains: Any) -> None:
    champion = {TOP1: score(0.9), "zeroshot/top5": score(0.9)}
    candidate = {TOP1: score(0.9), "zeroshot/top5": score(0.1)}
    assert problems(champion, candidate) == []
    assert problems(champion, candidate, ["zeroshot/top5"])
    with complains("--metrics zeroshot/top2", "did you mean zeroshot/top"):
        compare(champion, candidate, ["zeroshot/top2"])


def test_a_champion_without_metrics_is_one_line(complains: Any) -> None:
    with complains("no metric"):
        compare({}, {TOP1: score(0.9)}, None)


def test_scores_are_read_as_they_were_written() -> None:
    scores = {TOP1: score(0.123456789), "retrieval/i2t_r1": score(0.5)}
    assert read_scores(write_scores(scores), "") == scores


@pytest.mark.parametrize("text", [None, "", "[]", '{"a": 1}', '{"a": {"value": 1}}', "{"])
def test_an_edited_tag_is_one_line(complains: Any, text: str | None) -> None:
    with complains("models:/scenes/1", "kdeov publish"):
        read_scores(text, "models:/scenes/1")


def test_students_of_any_size_are_compared_on_one_test() -> None:
    start = "zero-shot/scenes 1024 test images a38efe16/64 classes 690666fd/plain 6 templates"
    small, large = (f"{start}/{side} px bicubic center/1000 bootstrap samples" for side in (64, 96))
    assert measured_on(small) == measured_on(large) != measured_on(small.replace("1024", "512"))
