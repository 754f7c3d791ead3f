"""What the later stages write: students that load, and metrics that follow from the predictions
beside them.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.errors import KdeovError
from kdeov.model import KDEOVModel
from pipeline.dataset import Dataset
from pipeline.distill import distill
from pipeline.evaluation import read_arrays
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.results import Results
from pipeline.retrieval import retrieval
from pipeline.run import RunRecord
from pipeline.zero_shot import zero_shot

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """A copy of the trained checkout that a test may damage."""
    shutil.copytree(trained[0].root, tmp_path / "checkout", symlinks=True)
    return Layout(tmp_path / "checkout"), trained[1]


def metrics(layout: Layout, name: str) -> dict[str, Any]:
    return json.loads((layout.metrics / f"{name}.json").read_text())


def test_the_student_loads_and_sees_pictures(trained: Trained) -> None:
    layout, params = trained
    model = KDEOVModel.load(layout.student, "cpu")
    assert (model.transform.size, model.embed_dim) == (params.distill.image_size, 32)
    vectors = model.encode_image([Image.new("RGB", (50, 40), "red")])
    assert vectors.norm(dim=-1).item() == pytest.approx(1, abs=1e-5)


def test_the_record_the_metrics_and_the_checkpoints_bear_one_fingerprint(trained: Trained) -> None:
    layout, params = trained
    record = RunRecord.read(layout.student)
    assert record.name == f"yolov8n-film-{record.fingerprint[:4]}"
    assert (record.dataset, record.teacher) == ("scenes", "clip.safetensors")
    assert set(record.params) == {"prepare", "teacher", "embed", "distill"}
    assert record.params["distill"]["epochs"] == params.distill.epochs
    assert metrics(layout, "distill")["fingerprint"] == record.fingerprint
    assert [path.name for path in layout.runs.iterdir()] == [record.fingerprint]


def test_the_history_has_a_row_an_epoch_that_depends_on_the_run_alone(trained: Trained) -> None:
    layout, _ = trained
    with open(layout.metrics / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert not {"images_per_s", "workers"} & set(rows[0])
    last = metrics(layout, "distill")
    assert float(rows[-1]["val_cosine"]) == last["val_cosine"]
    assert (last["epochs"], last["samples"]) == (2, 24)


def test_a_finished_run_gives_the_same_files_without_training_again(copied: Trained) -> None:
    layout, params = copied
    wanted = [layout.metrics / "distill.json", layout.metrics / "history.csv"]
    wanted += sorted(path for path in layout.student.iterdir())
    before = [path.read_bytes() for path in wanted]
    checkpoint = next(layout.runs.rglob("step-000000006.pt"))
    age = checkpoint.stat().st_mtime_ns
    shutil.rmtree(layout.student)
    distill(params, layout)
    assert [path.read_bytes() for path in wanted] == before
    assert checkpoint.stat().st_mtime_ns == age


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distill": {"fusion": "mixture"}}, ["'mixture'", "film"]),
        ({"distill": {"backbone": "yolov99"}}, ["'yolov99'", "yolov8n"]),
        ({"distill": {"losses": {"feature": 0, "fusion": 1}}}, ["every weight is 0"]),
        ({"distill": {"backbone_weights": "/no/such.pt"}}, ["/no/such.pt"]),
        (
            {"distill": {"global_batch": 8}, "cluster": {"mode": "local", "workers": 3}},
            ["global_batch = 8", "3 workers"],
        ),
        (
            {
                "distill": {"global_batch": 26, "lanes": 26, "micro_batch": 1},
                "cluster": {"mode": "local", "workers": 26},
            },
            ["24 training pictures are fewer than 26 workers"],
        ),
        ({"distill": {"lanes": 3}}, ["global_batch = 8", "distill.lanes = 3"]),
        ({"embed": {"views": 5}}, ["views.count is 3, wanted 5"]),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(
    checkout: Layout,
    make_params: MakeParams,
    complains: Any,
    changes: dict[str, Any],
    words: list[str],
) -> None:
    with complains(*words):
        distill(make_params(**changes), checkout)
    assert not (checkout.root / "work").exists() and not checkout.student.exists()


@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_damaged_shards_are_found_before_training(
    checkout: Layout, params: Params, complains: Any, side: str
) -> None:
    path: Path = getattr(checkout, side) / "val" / "000000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with complains(path, "its bytes differ from the manifest"):
        distill(params, checkout)
    assert not checkout.student.exists()


def test_zero_shot_metrics_follow_from_the_predictions(trained: Trained) -> None:
    layout, _ = trained
    scores = metrics(layout, "zero_shot")["scenes"]
    arrays = read_arrays(layout.evaluation / "zero_shot" / "predictions.npz")
    held_out = np.isin(arrays["labels"], Dataset.read(layout.images).held_out_labels)
    for name in ("teacher", "student"):
        right = arrays[name] == arrays["labels"]
        assert scores[name]["top1"] == pytest.approx(right.mean())
        assert scores[name]["heldout_top1"] == pytest.approx(right[held_out].mean())
        assert scores[name]["seen_top1"] == pytest.approx(right[~held_out].mean())
        assert scores[name]["top1"] <= scores[name]["top5"] and scores[name]["count"] == 12
    teacher = scores["teacher"]["top1"]
    expected = scores["student"]["top1"] / teacher if teacher else None
    assert scores["retained"]["top1"] == expected
    assert scores["protocol"].startswith("zero-shot/64 classes ")
    assert scores["protocol"].endswith("/32 px center")


def test_the_confusion_table_has_a_row_a_picture(trained: Trained) -> None:
    layout, _ = trained
    arrays = read_arrays(layout.evaluation / "zero_shot" / "predictions.npz")
    classes = Dataset.read(layout.images).classes
    with open(layout.evaluation / "zero_shot" / "confusion.csv") as file:
        rows = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    pairs = zip(arrays["labels"], arrays["student"], strict=True)
    assert rows == [(classes[a], classes[p]) for a, p in pairs]


def test_retrieval_metrics_follow_from_the_hits(trained: Trained) -> None:
    layout, _ = trained
    scores = metrics(layout, "retrieval")["scenes"]
    arrays = read_arrays(layout.evaluation / "retrieval" / "hits.npz")
    own = arrays["image_of_text"][:, None]
    assert arrays["hits"].shape == (36, 5)
    for k in (1, 5):
        found = (arrays["hits"][:, :k] == own).any(axis=1).mean()
        assert scores["student"][f"t2i_r{k}"] == pytest.approx(found)
    assert (scores["teacher"]["images"], scores["teacher"]["texts"]) == (12, 36)
    assert scores["protocol"].startswith("retrieval/12 pictures, 36 captions/")
    for way in ("i2t", "t2i"):
        recalls = [scores["student"][f"{way}_r{k}"] for k in (1, 5, 10)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1


def test_reranking_states_its_gain_over_the_same_student(trained: Trained) -> None:
    layout, params = trained
    scores = metrics(layout, "retrieval")["scenes"]
    reranked, plain = scores["reranked"], scores["student"]
    assert reranked["count"] == params.retrieval.rerank
    for k in (1, 5, 10):
        gain = reranked[f"t2i_r{k}"] - plain[f"t2i_r{k}"]
        assert reranked[f"gain_t2i_r{k}"] == pytest.approx(gain)


def test_reranking_few_hits_leaves_longer_lists_as_they_are(
    copied: Trained, make_params: MakeParams
) -> None:
    layout, _ = copied
    retrieval(make_params(retrieval={"rerank": 5}), layout)
    reranked = metrics(layout, "retrieval")["scenes"]["reranked"]
    assert reranked["gain_t2i_r5"] == reranked["gain_t2i_r10"] == 0


def test_no_reranking_leaves_its_row_out_and_changes_no_other_number(
    copied: Trained, make_params: MakeParams
) -> None:
    layout, _ = copied
    before = metrics(layout, "retrieval")["scenes"]
    retrieval(make_params(retrieval={"rerank": 0}), layout)
    after = metrics(layout, "retrieval")["scenes"]
    assert "reranked" not in after and set(before) - set(after) == {"reranked"}
    assert after["teacher"] == before["teacher"]
    assert after["student"] == pytest.approx(before["student"])


def test_evaluating_twice_gives_the_same_bytes(copied: Trained) -> None:
    layout, params = copied
    folders = layout.evaluation, layout.metrics
    wanted = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in wanted}
    for stage in (zero_shot, retrieval):
        stage(params, layout)
    assert {path: path.read_bytes() for path in wanted} == before


def test_pictures_without_labels_are_retrieved_and_not_classified(
    copied: Trained, log: Any
) -> None:
    layout, params = copied
    path = layout.images / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [], "held_out": []}))
    zero_shot(params, layout)
    retrieval(params, layout)
    assert metrics(layout, "zero_shot") == {}
    assert "scenes has no labels" in log.text
    assert Results.read(layout).zero_shot == {}


def test_unknown_templates_are_named_with_the_known_ones(
    copied: Trained, make_params: MakeParams, complains: Any
) -> None:
    with complains("'fancy'", "simple, plain"):
        zero_shot(make_params(zero_shot={"templates": "fancy"}), copied[0])


def test_a_student_of_another_teacher_is_not_evaluated(copied: Trained, complains: Any) -> None:
    layout, params = copied
    path = layout.teacher / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "0" * 64}))
    with complains("teacher.weights_sha256", "run `dvc repro embed`"):
        retrieval(params, layout)


def test_efficiency_counts_what_the_student_has(trained: Trained) -> None:
    layout, _ = trained
    measured = metrics(layout, "efficiency")
    student = KDEOVModel.load(layout.student, "cpu").student
    trainable = sum(p.numel() for part in (student.backbone, student.projection)
                    for p in part.parameters())  # fmt: skip
    assert 0.9 * trainable < measured["student"]["parameters"] <= trainable
    weights = layout.student / "student.safetensors"
    assert measured["student"]["file_bytes"] == weights.stat().st_size
    reference = measured["reference"]
    assert reference["speedup"] == reference["latency_ms"] / reference["student_latency_ms"]
    assert torch.get_num_threads() == 1


def test_results_read_what_the_stages_wrote(trained: Trained) -> None:
    results = Results.read(trained[0])
    assert [row["epoch"] for row in results.history] == [1, 2]
    labels = [label for label, *_ in results.comparison()]
    assert "zero-shot top-1" in labels and "text to picture, R@10" in labels
    shown = results.metrics()
    assert shown["zeroshot/top1"] == results.zero_shot["student"]["top1"]
    assert shown["zeroshot/teacher_top1"] == results.zero_shot["teacher"]["top1"]
    assert shown["efficiency/student_parameters"] == results.efficiency["student"]["parameters"]
    assert all(isinstance(value, int | float) for value in shown.values())


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("metrics/zero_shot.json", "zero_shot"),
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
    layout, _ = copied
    (layout.root / name).unlink()
    with complains(name, f"dvc repro {stage}"):
        Results.read(layout)


def test_results_of_another_data_set_are_refused(copied: Trained) -> None:
    layout, _ = copied
    path = layout.metrics / "retrieval.json"
    path.write_text(json.dumps({"photographs": metrics(layout, "retrieval")["scenes"]}))
    with pytest.raises(KdeovError, match=r"retrieval\.json"):
        Results.read(layout)
