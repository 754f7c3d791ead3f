"""Page, console and MLflow show detection: base, held out or transfer, and boxes on images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdeov.detection.detector import save_none
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.detection import detection
from pipeline.evaluation.shared.embeddings import read_arrays
from pipeline.report.objects.drawing import (
    COLORS,
    FALSE_ALARM,
    HIT,
    MISS,
    SIDE,
    Mark,
    choose,
    draw,
    marks_of,
    threshold_of,
)
from pipeline.report.publish import publish
from pipeline.report.report import report
from pipeline.report.results import Results
from pipeline.report.summary import print_summary
from pipeline.tracking.target import TrackingTarget
from tests.helpers.box_heads import save_untrained_head
from tests.helpers.results import read_metrics

Trained = tuple[Layout, Params]


def arrays(*found: tuple[int, int, float, bool]) -> dict[str, np.ndarray]:
    """Two images with a square of class 0 each; detections of image, class, score and match."""
    boxes = [[2.0, 2.0, 12.0, 12.0] if right else [20.0, 20.0, 30.0, 28.0] for *_, right in found]
    hits = {image for image, *_, right in found if right}
    return {
        "names": np.array(["red ball", "\u4e2d\u6587"]),
        "object_images": np.array([0, 1]),
        "object_boxes": np.array([[2.0, 2.0, 12.0, 12.0]] * 2),
        "object_classes": np.array([0, 0]),
        "object_crowd": np.array([False, False]),
        "object_found": np.array([0 in hits, 1 in hits]),
        "images": np.array([f[0] for f in found], int),
        "boxes": np.array(boxes).reshape(-1, 4),
        "classes": np.array([f[1] for f in found], int),
        "scores": np.array([f[2] for f in found], float),
        "right": np.array([f[3] for f in found], bool),
        "ignored": np.zeros(len(found), bool),
    }


def test_a_detection_is_a_hit_or_a_false_alarm_and_an_object_without_one_is_missed() -> None:
    values = arrays((0, 0, 0.9, True), (0, 1, 0.8, False), (1, 0, 0.1, True))
    marks = marks_of(values, 0, 0.5)
    assert [(m.kind, m.name) for m in marks] == [(HIT, "red ball"), (FALSE_ALARM, "\u4e2d\u6587")]
    # the other image's detection is below the threshold
    assert [(m.kind, m.score) for m in marks_of(values, 1, 0.5)] == [(MISS, None)]
    assert marks_of(values, 1, 0.0)[0].kind == HIT


def test_the_threshold_balances_precision_and_recall() -> None:
    values = arrays((0, 0, 0.9, True), (1, 0, 0.6, True), (0, 1, 0.2, False), (1, 1, 0.1, False))
    assert threshold_of(values) == 0.6
    assert threshold_of(arrays()) == 0.0


def test_images_with_hits_misses_and_false_alarms_are_chosen() -> None:
    values = arrays((0, 0, 0.9, True), (0, 1, 0.8, False))
    assert choose(values, 8, 0.5) == [0, 1]  # the second one has a miss
    assert choose(arrays(), 8, 0.0) == [0, 1]
    assert choose(values, 1, 0.5) == [0]


def test_boxes_are_drawn_where_they_are_in_the_color_of_their_kind() -> None:
    marks = [
        Mark(HIT, "a", 0.9, (10.0, 10.0, 40.0, 40.0)),
        Mark(MISS, "b", None, (60.0, 50.0, 90.0, 70.0)),
    ]
    drawn = draw(Image.new("RGB", (100, 80), "white"), marks)
    image = Image.open(io.BytesIO(drawn.jpeg)).convert("RGB")
    assert image.size == (SIDE, round(SIDE * 0.8))
    for kind, (left, top) in {HIT: (30, 75), MISS: (180, 150)}.items():
        wanted = np.array([int(COLORS[kind][i : i + 2], 16) for i in (1, 3, 5)])
        part = np.asarray(image)[top - 2 : top + 4, left - 2 : left + 12].reshape(-1, 3)
        assert np.abs(part.astype(int) - wanted).sum(axis=1).min() < 90, kind
    assert np.asarray(image)[5, 5].min() > 240
    assert len(drawn.jpeg) < 30_000


@pytest.mark.slow
def test_detection_is_shown_with_its_protocol(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    report(params, paths)
    scores = read_metrics(paths, "detection")
    print_summary(Results.read(params, paths))
    text = capsys.readouterr().out
    target = TrackingTarget.of(params.tracking, paths)
    run = target.client().get_run(publish(params, paths))
    page = paths.report.read_text(encoding="utf-8")
    for place in (page, text, run.data.tags["mlflow.note.content"]):
        assert scores["protocol_id"] in place and scores["protocol"] in place
        assert "AP50" in place and "held out" in place and "transfer" not in place
    assert scores["protocol_id"] in run.data.tags["protocol.detection"]
    assert run.data.metrics["accuracy/ap50"] == scores["all"]["ap50"]
    assert page.count('class="marked"') > 0


@pytest.mark.slow
def test_held_out_is_not_said_of_classes_whose_boxes_were_seen(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    names = read_arrays(paths.evaluation / "detection" / "found.npz")["names"].tolist()
    save_untrained_head(params, paths, names)
    detection(params, paths)
    report(params, paths)
    print_summary(Results.read(params, paths))
    text = capsys.readouterr().out
    table = text[text.index("Detection with") :]
    assert "transfer" in table and "│ held out" not in table
    assert "held_out" not in " ".join(Results.read(params, paths).detection.metrics())  # type: ignore[union-attr]
    assert "<th>transfer</th>" in paths.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_boxes_the_reason_is_shown(copied: Trained, capsys: Any) -> None:
    paths, params = copied
    save_none(paths.boxes)
    detection(params, paths)
    report(params, paths)
    print_summary(Results.read(params, paths))
    page = paths.report.read_text(encoding="utf-8")
    for place in (page, capsys.readouterr().out):
        assert "No detection: train_boxes.kind is none" in place
    assert "<h2>Detection</h2>" not in page
