"""Page, console and MLflow show the same numbers, and the reason where there are none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import stdout
from pipeline.evaluation.shared.embeddings import read_arrays, write_arrays
from pipeline.report.page.tables import used_params
from pipeline.report.publish import publish
from pipeline.report.report import report
from pipeline.report.results import MetricValue, Results, format_score
from pipeline.report.summary import print_summary
from pipeline.storage.checked import write_checked_json
from pipeline.tracking.target import TrackingTarget
from tests.helpers.results import edit_json, untrain_fusion

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def without_teacher(paths: Layout) -> None:
    """Results of a teacher with neither embeddings of the test split nor an image tower."""
    for name in ("zero_shot", "linear_probe", "retrieval"):
        edit_json(
            paths.metrics / f"{name}.json",
            lambda v: [v["scenes"].pop(k) for k in ("teacher", "retained")],
        )
    elsewhere = {"split": "train", "top1": 0.625, "count": 8, "interval": {"top1": [0.5, 0.75]}}
    edit_json(paths.metrics / "zero_shot.json", lambda v: v["scenes"].update(teacher_on=elsewhere))
    edit_json(paths.metrics / "efficiency.json", lambda v: v.update(teacher=None))
    edit_json(
        paths.metrics / "detection.json",
        lambda v: [
            group.pop(k) for group in v["scenes"]["true_boxes"].values()
            for k in ("teacher", "retained")
        ],
    )  # fmt: skip
    path = paths.evaluation / "zero_shot" / "predictions.npz"
    arrays = read_arrays(path)
    del arrays["teacher"], arrays["teacher_confidence"]
    write_arrays(path, **arrays)


def absent(paths: Layout, name: str, reason: str) -> None:
    """Results of an evaluation that cannot run on the data set."""
    write_checked_json(paths.metrics / f"{name}.json", {"scenes": {"absent": reason}})
    edit_json(
        paths.metrics / "efficiency.json", lambda v: v["deployed"]["int8_cost"].update({name: None})
    )


def page(paths: Layout) -> str:
    return paths.report.read_text(encoding="utf-8")


def shown(results: Results, capsys: pytest.CaptureFixture[str]) -> str:
    assert not stdout.is_terminal
    print_summary(results)
    return capsys.readouterr().out


def run_of(paths: Layout, params: Params) -> tuple[MlflowClient, Run]:
    target = TrackingTarget.of(params.tracking, paths)
    client = target.client()
    return client, client.get_run(publish(params, paths))


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
    assert run.data.metrics["accuracy/top1"] == results.zero_shot["student"]["top1"]


def test_reranking_is_shown_with_a_verdict(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied

    def helped(values: dict[str, Any]) -> None:
        reranked = values["scenes"]["reranked"]
        for rank, gain in (("r1", 0.1), ("r5", 0.0), ("r10", 0.0)):
            reranked[f"gain_t2i_{rank}"] = gain
            reranked["interval"][f"gain_t2i_{rank}"] = [gain - 0.05, gain + 0.05]
        reranked["verdict"] = "helps"

    edit_json(paths.metrics / "retrieval.json", helped)
    report(params, paths)
    text = shown(Results.read(params, paths), capsys)
    assert "Re-ranking the first 12 by fusion helps, judged by R@1, R@5, R@10" in text
    for place in (page(paths), text):
        assert "+0.100 [+0.050, +0.150]" in place and "no effect" in place


def test_without_trained_fusion_the_reason_for_no_reranking_is_shown(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    untrain_fusion(paths)
    edit_json(paths.metrics / "retrieval.json", lambda v: v["scenes"].pop("reranked"))
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


def test_without_labels_heat_maps_are_those_of_captions(
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


def test_the_page_counts_the_classes_of_the_classifier(copied: Trained) -> None:
    paths, params = copied
    edit_json(
        paths.metrics / "zero_shot.json",
        lambda v: v["scenes"].update(classes=61, held_out_classes=7),
    )
    report(params, paths)
    assert "61 classes, 7 of them held out of training" in page(paths)


def test_a_share_without_an_interval_does_not_look_certain(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied

    def unsure(values: dict[str, Any]) -> None:
        values["scenes"]["retained"] |= {"top1": 1.833, "interval": {}}

    edit_json(paths.metrics / "zero_shot.json", unsure)
    report(params, paths)
    assert '<td data-label="retained">183.3% [no interval]</td>' in page(paths)
    assert "retained 183.3% [no interval]</span>" in page(paths)  # on the card
    assert "183.3% [no interval]" in shown(Results.read(params, paths), capsys)


def test_params_of_other_sources_are_not_shown(params: Params) -> None:
    values = params.model_dump(mode="json", include={"prepare", "teacher", "distill"})
    used = used_params(dict(sorted(values.items(), reverse=True)))
    assert list(used) == ["prepare", "teacher", "distill"]
    assert "scenes" in used["prepare"] and "tiny" in used["teacher"]
    assert not {"captions_csv", "coco"} & set(used["prepare"])
    assert not {"clip", "open_clip", "embeddings"} & set(used["teacher"])
    assert used["distill"] == values["distill"] and used["prepare"]["seed"] == 0


def test_near_duplicates_across_splits_are_shown(copied: Trained) -> None:
    paths, params = copied
    path = paths.images / "dataset.json"
    found = {"test in train": {"images": 7, "examples": [["test/1", "train/9"]]}}
    edit_json(path, lambda v: v.update(near_duplicates=found))
    report(params, paths)
    assert "Near-duplicates across splits" in page(paths)
    assert "test in train" in page(paths) and "test/1 as train/9" in page(paths)
    edit_json(path, lambda v: v.update(near_duplicates={}))
    report(params, paths)
    assert "Near-duplicates" not in page(paths)
