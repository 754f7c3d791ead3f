"""Zero-shot metrics follow from the predictions beside them, and class names from params."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdeov.evaluation.calibration import BINS, reliability
from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import load_student, read_arrays, run_student
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.report.results import Results
from tests.helpers.results import edit_json, read_metrics

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


def predictions(paths: Layout) -> dict[str, np.ndarray]:
    return read_arrays(paths.evaluation / "zero_shot" / "predictions.npz")


def test_zero_shot_metrics_follow_from_the_predictions(trained: Trained) -> None:
    paths, _ = trained
    scores = read_metrics(paths, "zero_shot")
    arrays = predictions(paths)
    held_out = np.isin(arrays["labels"], Dataset.read(paths.images).held_out_labels)
    for name in ("teacher", "student"):
        right = arrays[name] == arrays["labels"]
        assert scores[name]["top1"] == pytest.approx(right.mean())
        assert scores[name]["heldout_top1"] == pytest.approx(right[held_out].mean())
        assert scores[name]["seen_top1"] == pytest.approx(right[~held_out].mean())
        assert scores[name]["top1"] <= scores[name]["top5"] and scores[name]["count"] == 12
        for key, (low, high) in scores[name]["interval"].items():
            assert low <= scores[name][key] <= high
    teacher = scores["teacher"]["top1"]
    expected = scores["student"]["top1"] / teacher if teacher else None
    assert scores["retained"]["top1"] == expected
    assert (scores["left_out"], scores["class_names"]) == (0, None)


def test_calibration_errors_follow_from_the_confidence_of_every_image(trained: Trained) -> None:
    paths, params = trained
    scores, arrays = read_metrics(paths, "zero_shot"), predictions(paths)
    images = run_student(params, paths, load_student(params, paths), "test").embedding.numpy()
    scale = scores["calibration"]["logit_scale"]
    logits = scale * images[arrays["images"]] @ arrays["weights"].T
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exps.max(axis=1) / exps.sum(axis=1)
    np.testing.assert_allclose(arrays["student_confidence"], expected, rtol=1e-4)
    assert scores["calibration"]["bins"] == BINS
    for name in ("teacher", "student"):
        confidence, right = arrays[f"{name}_confidence"], arrays[name] == arrays["labels"]
        assert (confidence > 1 / scores["classes"]).all() and (confidence <= 1).all()
        assert scores[name]["ece"] == pytest.approx(reliability(confidence, right).ece)
    held_out = Dataset.read(paths.images).held_out
    assert [str(arrays["names"][n]) for n in arrays["held_out"]] == held_out


def test_the_confusion_table_has_a_row_an_image(trained: Trained) -> None:
    paths, _ = trained
    arrays = predictions(paths)
    classes = Dataset.read(paths.images).classes
    with open(paths.evaluation / "zero_shot" / "confusion.csv", encoding="utf-8") as file:
        rows = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    pairs = zip(arrays["labels"], arrays["student"], strict=True)
    assert rows == [(classes[a], classes[p]) for a, p in pairs]


def test_class_names_are_those_of_params(
    copied: Trained, make_params: MakeParams, log: Any
) -> None:
    paths, _ = copied
    before, classes = read_metrics(paths, "zero_shot"), Dataset.read(paths.images).classes
    labels = [classes[label] for label in predictions(paths)["labels"]]
    gone, renamed = labels[0], next(name for name in labels if name != labels[0])
    zero_shot(make_params(zero_shot={"class_names": {gone: None, renamed: "a thing"}}), paths)
    scores, arrays = read_metrics(paths, "zero_shot"), predictions(paths)
    assert scores["left_out"] == labels.count(gone) > 0
    assert scores["student"]["count"] == 12 - labels.count(gone)
    assert len(arrays["names"]) == len(classes) - 1 and gone not in arrays["names"]
    shown = [str(arrays["names"][label]) for label in arrays["labels"]]
    assert shown == ["a thing" if n == renamed else n for n in labels if n != gone]
    assert [labels[row] for row in arrays["images"]] == [n for n in labels if n != gone]
    assert scores["protocol_id"] != before["protocol_id"]
    assert f"class names {scores['class_names'][:8]}" in scores["protocol"]
    assert scores["protocol_id"] in log.text  # the protocol is logged with the metrics


def test_class_names_of_a_file_are_those_of_a_mapping(
    copied: Trained, make_params: MakeParams, tmp_path: Path, complains: Any
) -> None:
    paths, _ = copied
    renaming = {Dataset.read(paths.images).classes[3]: "something else"}
    path = tmp_path / "names.json"
    path.write_text(json.dumps(renaming), encoding="utf-8")
    with_file = make_params(zero_shot={"class_names": str(path)})
    zero_shot(with_file, paths)
    by_file = read_metrics(paths, "zero_shot")
    zero_shot(make_params(zero_shot={"class_names": renaming}), paths)
    assert read_metrics(paths, "zero_shot") == by_file
    Results.read(with_file, paths)
    path.write_text(json.dumps({next(iter(renaming)): "yet another"}), encoding="utf-8")
    with complains("zero_shot.class_names", "dvc repro -f zero_shot"):
        Results.read(with_file, paths)  # DVC tracks only the path of the file


def test_cached_classifier_weights_are_read_by_later_runs_and_change_nothing(
    copied: Trained, log: Any
) -> None:
    paths, params = copied
    before = (paths.metrics / "zero_shot.json").read_bytes()
    (cached,) = paths.zero_shot_weights.iterdir()
    zero_shot(params, paths)
    assert f"64 classes x 5 prompts: read from {cached}" in log.text
    cached.unlink()
    zero_shot(params, paths)
    assert cached.is_file() and (paths.metrics / "zero_shot.json").read_bytes() == before


def test_a_classifier_of_one_class_has_no_numbers(
    copied: Trained, make_params: MakeParams, log: Any
) -> None:
    paths, _ = copied
    first, *others = Dataset.read(paths.images).classes
    only = make_params(zero_shot={"class_names": dict.fromkeys(others)})
    zero_shot(only, paths)
    reason = "a classifier of one class is always right"
    assert read_metrics(paths, "zero_shot") == {"absent": reason}
    assert reason in log.text
    edit_json(paths.images / "dataset.json", lambda v: v.update(classes=[first], held_out=[]))
    zero_shot(make_params(), paths)
    assert read_metrics(paths, "zero_shot") == {"absent": reason}
    assert f"No zero-shot classification: {reason}." in Results.read(make_params(), paths).remarks()


def test_unknown_templates_are_named_with_the_known_ones(
    copied: Trained, make_params: MakeParams, complains: Any
) -> None:
    with complains("'fancy'", "simple, plain"):
        zero_shot(make_params(zero_shot={"templates": "fancy"}), copied[0])
