"""What report, MLflow and console show, and that they leave blank what a run does not have."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from kdeov.errors import KdeovError
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import stdout
from pipeline.evaluation.shared.embeddings import read_arrays, write_arrays
from pipeline.report.figures import GRAY, STUDENT_COLOR, training_curves
from pipeline.report.publish import publish
from pipeline.report.report import report, used_params
from pipeline.report.results import (
    MetricValue,
    Results,
    format_gain,
    format_percent,
    format_score,
    format_speedup,
)
from pipeline.report.summary import print_summary
from pipeline.tracking.target import TrackingTarget

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]
Change = Callable[[dict[str, Any]], None]


def change(paths: Layout, name: str, edit: Change) -> None:
    """Edits the metrics of a stage."""
    path = paths.metrics / f"{name}.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def without_teacher(paths: Layout) -> None:
    """Results as a teacher leaves them that has no vectors of the test split and no tower."""
    for name in ("zero_shot", "linear_probe", "retrieval"):
        change(paths, name, lambda v: [v["scenes"].pop(k) for k in ("teacher", "retained")])
    elsewhere = {"split": "train", "top1": 0.625, "count": 8, "interval": {"top1": [0.5, 0.75]}}
    change(paths, "zero_shot", lambda v: v["scenes"].update(teacher_on=elsewhere))
    change(paths, "efficiency", lambda v: v.update(teacher=None))
    path = paths.evaluation / "zero_shot" / "predictions.npz"
    arrays = read_arrays(path)
    del arrays["teacher"]
    write_arrays(path, **arrays)


def absent(paths: Layout, name: str, reason: str) -> None:
    """Results of an evaluation that had nothing to measure."""
    (paths.metrics / f"{name}.json").write_text(json.dumps({"scenes": {"absent": reason}}))


def page(paths: Layout) -> str:
    return paths.report.read_text()


def shown(results: Results, capsys: pytest.CaptureFixture[str]) -> str:
    assert not stdout.is_terminal
    print_summary(results)
    return capsys.readouterr().out


def run_of(paths: Layout, params: Params) -> tuple[MlflowClient, Run]:
    target = TrackingTarget.of(params.tracking, paths)
    client = target.client()
    return client, client.get_run(publish(params, paths))


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
    assert format_score(MetricValue.of(scores, "top5")) == format_percent(None) == format_score(MetricValue.of(None, "top1")) == ""
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
    }  # fmt: skip
    assert len([name for name in found if not name.startswith("efficiency/")]) <= 55
    assert found["efficiency/student_parameters"] == results.efficiency["student"]["parameters"]
    assert all(isinstance(value, int | float) for value in found.values())


def test_every_number_is_shown_with_its_protocol(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    report(params, paths)
    results = Results.read(params, paths)
    _, run = run_of(paths, params)
    text = shown(results, capsys)
    for name, tag in (("zero_shot", "zeroshot"), ("retrieval", "retrieval"),
                      ("linear_probe", "linear_probe")):  # fmt: skip
        scores = results.evaluations[name]
        for place in (page(paths), text, run.data.tags[f"protocol.{tag}"],
                      run.data.tags["mlflow.note.content"]):  # fmt: skip
            assert scores["protocol_id"] in place and scores["protocol"] in place
    top1 = format_score(MetricValue.of(results.zero_shot["student"], "top1"))
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", top1)
    for place in (page(paths), text, run.data.tags["mlflow.note.content"]):
        assert top1 in place
    assert run.data.metrics["zeroshot/top1"] == results.zero_shot["student"]["top1"]


def test_what_reranking_does_is_said_with_a_verdict(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied

    def helped(values: dict[str, Any]) -> None:
        reranked = values["scenes"]["reranked"]
        reranked["gain_t2i_r1"] = 0.1
        reranked["interval"]["gain_t2i_r1"] = [0.05, 0.15]
        reranked["verdict"] = "helps"

    change(paths, "retrieval", helped)
    report(params, paths)
    text = shown(Results.read(params, paths), capsys)
    assert "Re-ranking the first 12 by fusion helps, judged by R@1, R@5, R@10" in text
    for place in (page(paths), text):
        assert "+0.100 [+0.050, +0.150]" in place and "no effect" in place


def test_a_student_without_trained_fusion_says_why_nothing_is_re_ranked(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    path = paths.student / "run.json"
    record = json.loads(path.read_text())
    record["params"]["distill"]["losses"]["fusion"] = 0.0
    path.write_text(json.dumps(record))
    change(paths, "retrieval", lambda v: v["scenes"].pop("reranked"))
    report(params, paths)
    for text in (shown(Results.read(params, paths), capsys), page(paths)):
        assert "fusion was not trained" in text


def test_without_a_teacher_on_the_test_split_its_columns_are_left_out(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    without_teacher(paths)
    report(params, paths)
    results = Results.read(params, paths)
    text = shown(results, capsys)
    _, run = run_of(paths, params)
    for place in (text, page(paths), run.data.tags["mlflow.note.content"]):
        assert "No metrics of the teacher" in place
        assert "Zero-shot top-1 of the teacher on the train split: 0.625 [0.500, 0.750]." in place
        assert "retained" not in place and "paired" not in place
    (line,) = (line for line in text.splitlines() if "parameters" in line)
    assert len(line.strip("│").split("│")) == 2
    assert ">teacher</th>" not in page(paths)
    assert "teacher, clip" not in page(paths)  # in the table of size and speed
    assert not [name for name in run.data.metrics if "teacher" in name or "retained" in name]
    assert "retrieval/t2i_r5" in run.data.metrics
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page(paths))
    assert "" in cells and not [cell for cell in cells if "None" in cell or "nan" in cell]
    assert "None" not in text


def test_without_captions_there_is_no_retrieval_to_show(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    absent(paths, "retrieval", "scenes has no captions")
    report(params, paths)
    text = shown(Results.read(params, paths), capsys)
    assert "image to text" not in text and "zero-shot top-1" in text
    for place in (text, page(paths)):
        assert "No retrieval: scenes has no captions." in place
    assert "Text-to-image retrieval" not in page(paths)
    _, run = run_of(paths, params)
    assert not [name for name in run.data.metrics if name.startswith("retrieval/")]


def test_without_labels_captions_are_looked_for(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    for name in ("zero_shot", "linear_probe"):
        absent(paths, name, "scenes has no labels")
    report(params, paths)
    text = shown(Results.read(params, paths), capsys)
    assert "zero-shot top-1" not in text and "Heat maps of the student" in page(paths)
    for place in (text, page(paths)):
        assert "No zero-shot classification: scenes has no labels." in place
        assert "No linear probe: scenes has no labels." in place


def test_the_page_counts_the_classes_that_are_told_apart(copied: Trained) -> None:
    paths, params = copied
    change(paths, "zero_shot", lambda v: v["scenes"].update(classes=61, held_out_classes=7))
    report(params, paths)
    assert "61 classes, 7 of them held out of training" in page(paths)


def test_a_share_without_an_interval_does_not_look_certain(copied: Trained) -> None:
    paths, params = copied

    def unsure(values: dict[str, Any]) -> None:
        values["scenes"]["retained"] |= {"top1": 1.833, "interval": {}}

    change(paths, "zero_shot", unsure)
    report(params, paths)
    assert "<td>183.3% [no interval]</td>" in page(paths)
    assert "retained 183.3% [no interval]</span>" in page(paths)  # on the card


def test_params_are_shown_without_the_parts_that_the_run_did_not_use(params: Params) -> None:
    values = params.model_dump(mode="json", include={"prepare", "teacher", "distill"})
    used = used_params(dict(sorted(values.items(), reverse=True)))
    assert list(used) == ["prepare", "teacher", "distill"]
    assert "scenes" in used["prepare"] and "tiny" in used["teacher"]
    assert not {"captions_csv", "coco"} & set(used["prepare"])
    assert not {"clip", "open_clip", "embeddings"} & set(used["teacher"])
    assert used["distill"] == values["distill"] and used["prepare"]["seed"] == 0


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


def test_near_duplicates_across_splits_are_shown(copied: Trained) -> None:
    paths, params = copied
    path = paths.images / "dataset.json"
    found = {"test in train": {"images": 7, "examples": [["test/1", "train/9"]]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"near_duplicates": found}))
    report(params, paths)
    assert "Near-duplicates across splits" in page(paths)
    assert "test in train" in page(paths) and "test/1 as train/9" in page(paths)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"near_duplicates": {}}))
    report(params, paths)
    assert "Near-duplicates" not in page(paths)


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
def test_results_of_another_data_set_are_refused(copied: Trained, name: str) -> None:
    paths, params = copied
    change(paths, name, lambda values: values.update(photographs=values.pop("scenes")))
    with pytest.raises(KdeovError, match=rf"{name}\.json"):
        Results.read(params, paths)
