"""What is easy to misread is said: ceilings, numbers that every model has, and a student far under
its teacher.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.advice import warnings
from pipeline.report.report import report, write_page
from pipeline.report.results import Results
from pipeline.report.summary import print_summary
from pipeline.storage.files import sha256_file
from tests.helpers.results import edit_json

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def score(paths: Layout, task: str, key: str, teacher: float, student: float) -> None:
    """Sets a metric of both models, with narrow intervals, and no gap in any other."""

    def edit(values: dict[str, Any]) -> None:
        for name, value in (("teacher", teacher), ("student", student)):
            values["scenes"][name][key] = value
            values["scenes"][name]["interval"][key] = [value - 0.01, value + 0.01]

    edit_json(paths.metrics / f"{task}.json", edit)


def found(paths: Layout, params: Params) -> list[str]:
    return warnings(Results.read(params, paths))


@pytest.fixture
def even(copied: Trained) -> Trained:
    """Results of 64 classes and 1,000 images, in which the student equals a good teacher."""
    paths, params = copied
    for task in ("zero_shot", "linear_probe"):
        score(paths, task, "top1", 0.8, 0.8)
    for key in ("i2t_r5", "t2i_r5"):
        score(paths, "retrieval", key, 0.6, 0.6)
    edit_json(
        paths.metrics / "retrieval.json",
        lambda v: [v["scenes"][name].update(images=1000) for name in ("teacher", "student")],
    )
    return paths, params


def train(paths: Layout, samples: int, epochs: int, **distill: Any) -> None:
    """Sets the length of the training."""
    length = {"samples": samples, "repeated_samples_per_epoch": 0, "epochs": epochs}
    edit_json(paths.metrics / "distill.json", lambda v: v.update(length))
    written = sha256_file(paths.metrics / "distill.json")

    def record(values: dict[str, Any]) -> None:
        values["params"]["distill"].update(distill)
        values["sha256"]["distill.json"] = written

    edit_json(paths.student / "run.json", record)


def test_a_student_that_learned_needs_no_warning(even: Trained) -> None:
    assert not found(*even)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("zero_shot", "top1"),
        ("linear_probe", "top1"),
        ("retrieval", "i2t_r5"),
        ("retrieval", "t2i_r5"),
    ],
)
def test_few_steps_are_counted_and_epochs_for_more_are_named(
    even: Trained, task: str, key: str
) -> None:
    paths, params = even
    train(paths, samples=1024, epochs=2, global_batch_size=64)
    score(paths, task, key, 0.8, 0.05)
    (line,) = found(paths, params)
    assert "32 steps" in line and "distill.epochs from 2 to 63" in line
    assert "0.050" in line and "0.800" in line and "\n" not in line


def test_after_many_steps_other_params_are_named(even: Trained) -> None:
    paths, params = even
    train(paths, samples=64_000, epochs=10, global_batch_size=64, backbone_weights=None)
    score(paths, "zero_shot", "top1", 0.8, 0.1)
    (line,) = found(paths, params)
    assert "10,000 steps" in line and "distill.backbone_weights" in line
    train(paths, samples=64_000, epochs=10, backbone_weights="yolov8n.pt")
    (line,) = found(paths, params)
    assert "distill.backbone_weights" not in line and "distill.image_size" in line


def test_the_widest_gap_is_named(even: Trained) -> None:
    paths, params = even
    score(paths, "zero_shot", "top1", 0.8, 0.3)
    score(paths, "retrieval", "t2i_r5", 0.8, 0.01)
    (line,) = found(paths, params)
    assert "text to image, R@5" in line


def test_half_right_of_two_classes_is_chance_and_not_half_of_the_teacher(even: Trained) -> None:
    paths, params = even
    edit_json(paths.metrics / "zero_shot.json", lambda v: v["scenes"].update(classes=2))
    score(paths, "zero_shot", "top1", 0.95, 0.55)
    (line,) = found(paths, params)
    assert "chance 0.500" in line
    score(paths, "zero_shot", "top1", 0.95, 0.85)
    assert not found(paths, params)


def test_a_teacher_no_better_than_chance_is_no_measure(even: Trained) -> None:
    paths, params = even
    score(paths, "zero_shot", "top1", 0.016, 0.0)
    assert not found(paths, params)


def test_without_a_teacher_there_is_nothing_to_be_under(even: Trained) -> None:
    paths, params = even
    for task in ("zero_shot", "linear_probe", "retrieval"):
        edit_json(
            paths.metrics / f"{task}.json",
            lambda v: [v["scenes"].pop(name) for name in ("teacher", "retained")],
        )
    assert not found(paths, params)


def test_page_log_and_summary_warn_and_the_stage_ends_with_where_to_look(
    even: Trained, log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = even
    score(paths, "zero_shot", "top1", 0.8, 0.05)
    report(params, paths)
    (line,) = found(paths, params)
    assert line in [r.getMessage() for r in log.records if r.levelno == logging.WARNING]
    last = log.records[-1].getMessage()
    assert "out/report/index.html" in last and "kdeov summary" in last and "kdeov ui" in last
    print_summary(Results.read(params, paths))
    for place in (paths.report.read_text(encoding="utf-8").replace("&#39;", "'"),
                  capsys.readouterr().out):  # fmt: skip
        assert line in place


def test_a_ceiling_below_1_is_shown_and_one_of_1_is_not(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    ceiling = {"i2t_r1": 0.351, "i2t_r5": 0.87, "t2i_r1": 0.351, "t2i_r5": 1.0}
    edit_json(paths.metrics / "retrieval.json", lambda v: v["scenes"].update(ceiling=ceiling))
    results = Results.read(params, paths)
    write_page(results, params, paths)
    print_summary(results)
    page = paths.report.read_text(encoding="utf-8")
    for place in (page, capsys.readouterr().out):
        assert (
            "image to text, R@1 0.351; image to text, R@5 0.870; text to image, R@1 0.351." in place
        )
    assert "ceiling 0.870" in page and "ceiling 1.000" not in page  # on the cards
    edit_json(paths.metrics / "retrieval.json", lambda v: v["scenes"].pop("ceiling"))
    assert not Results.read(params, paths).ceilings()  # metrics of an earlier version


@pytest.mark.parametrize(
    ("task", "values", "certain"),
    [
        ("zero_shot", {"classes": 5}, {"zero-shot top-5"}),
        ("retrieval", {"images": 10, "texts": 50}, {"text to image, R@10"}),
        (
            "retrieval",
            {"images": 5, "texts": 5},
            {f"{way}, R@{k}" for way in ("text to image", "image to text") for k in (5, 10)},
        ),
    ],
)
def test_a_number_that_every_model_has_is_in_no_table(
    copied: Trained, task: str, values: dict[str, int], certain: set[str]
) -> None:
    paths, params = copied
    before = Results.read(params, paths)

    def edit(metrics: dict[str, Any]) -> None:
        for part in (metrics["scenes"], metrics["scenes"]["student"]):
            part.update(values)

    edit_json(paths.metrics / f"{task}.json", edit)
    after = Results.read(params, paths)
    assert {r.label for r in before.comparison()} - {r.label for r in after.comparison()} == certain
    assert len(before.metrics()) > len(after.metrics())
