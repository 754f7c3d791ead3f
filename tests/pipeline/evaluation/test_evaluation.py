"""What zero-shot classification and retrieval write follows from the vectors beside them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdeov.data.transform import ImageTransform
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shards import Manifest
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.shared.embeddings import CachedSplit, read_arrays
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.evaluation.shared.reranking import gain_verdict
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.report.results import Results

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


def metrics(layout: Layout, name: str) -> dict[str, Any]:
    return json.loads((layout.metrics / f"{name}.json").read_text())


def predictions(layout: Layout) -> dict[str, np.ndarray]:
    return read_arrays(layout.evaluation / "zero_shot" / "predictions.npz")


def test_zero_shot_metrics_follow_from_the_predictions(trained: Trained) -> None:
    layout, _ = trained
    scores = metrics(layout, "zero_shot")["scenes"]
    arrays = predictions(layout)
    held_out = np.isin(arrays["labels"], Dataset.read(layout.images).held_out_labels)
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


def test_the_confusion_table_has_a_row_a_image(trained: Trained) -> None:
    layout, _ = trained
    arrays = predictions(layout)
    classes = Dataset.read(layout.images).classes
    with open(layout.evaluation / "zero_shot" / "confusion.csv") as file:
        rows = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    pairs = zip(arrays["labels"], arrays["student"], strict=True)
    assert rows == [(classes[a], classes[p]) for a, p in pairs]


def test_a_class_is_called_and_left_out_as_params_say(
    copied: Trained, make_params: MakeParams, log: Any
) -> None:
    layout, _ = copied
    before, classes = metrics(layout, "zero_shot")["scenes"], Dataset.read(layout.images).classes
    labels = [classes[label] for label in predictions(layout)["labels"]]
    gone, renamed = labels[0], next(name for name in labels if name != labels[0])
    zero_shot(make_params(zero_shot={"class_names": {gone: None, renamed: "a thing"}}), layout)
    scores, arrays = metrics(layout, "zero_shot")["scenes"], predictions(layout)
    assert scores["left_out"] == labels.count(gone) > 0
    assert scores["student"]["count"] == 12 - labels.count(gone)
    assert len(arrays["names"]) == len(classes) - 1 and gone not in arrays["names"]
    shown = [str(arrays["names"][label]) for label in arrays["labels"]]
    assert shown == ["a thing" if n == renamed else n for n in labels if n != gone]
    assert [labels[row] for row in arrays["images"]] == [n for n in labels if n != gone]
    assert scores["protocol_id"] != before["protocol_id"]
    assert f"class names {scores['class_names'][:8]}" in scores["protocol"]
    assert scores["protocol_id"] in log.text  # a protocol is told where a number is made


def test_class_names_of_a_file_are_those_of_a_mapping(
    copied: Trained, make_params: MakeParams, tmp_path: Path, complains: Any
) -> None:
    layout, _ = copied
    renaming = {Dataset.read(layout.images).classes[3]: "something else"}
    path = tmp_path / "names.json"
    path.write_text(json.dumps(renaming))
    with_file = make_params(zero_shot={"class_names": str(path)})
    zero_shot(with_file, layout)
    by_file = metrics(layout, "zero_shot")
    zero_shot(make_params(zero_shot={"class_names": renaming}), layout)
    assert metrics(layout, "zero_shot") == by_file
    Results.read(with_file, layout)
    path.write_text(json.dumps({next(iter(renaming)): "yet another"}))
    with complains("class_names has changed since", "dvc repro -f zero_shot"):
        Results.read(with_file, layout)  # of a file, DVC watches just the path


def test_text_heads_are_found_by_later_runs_and_change_nothing(copied: Trained, log: Any) -> None:
    layout, params = copied
    before = (layout.metrics / "zero_shot.json").read_bytes()
    (head,) = layout.heads.iterdir()
    zero_shot(params, layout)
    assert "text head of 64 classes x 5 prompts: found in" in log.text and head.name in log.text
    head.unlink()
    zero_shot(params, layout)
    assert head.is_file() and (layout.metrics / "zero_shot.json").read_bytes() == before


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
    images_part_before = images_part(Dataset.read(layout.images), layout.images, 36)
    assert images_part_before.startswith("scenes 12 test images with 36 captions ")
    assert scores["protocol"].startswith(f"retrieval/{images_part_before}/")
    for way in ("i2t", "t2i"):
        recalls = [scores["student"][f"{way}_r{k}"] for k in (1, 5, 10)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1


def test_reranking_states_its_gain_over_the_same_student(trained: Trained) -> None:
    scores = metrics(trained[0], "retrieval")["scenes"]
    reranked, plain = scores["reranked"], scores["student"]
    assert reranked["count"] == 12  # there are no more images
    for k in (1, 5, 10):
        gain = reranked[f"t2i_r{k}"] - plain[f"t2i_r{k}"]
        assert reranked[f"gain_t2i_r{k}"] == pytest.approx(gain)
        low, high = reranked["interval"][f"gain_t2i_r{k}"]
        assert low <= gain <= high
    assert reranked["verdict"] in ("helps", "does not help")


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [((0.01, 0.05), "helps"), ((-0.02, 0.03), "no effect"), ((0.0, 0.0), "no effect"),
     ((-0.05, -0.01), "hurts")],
)  # fmt: skip
def test_the_interval_of_a_gain_decides_what_is_said_of_it(
    bounds: tuple[float, float], verdict: str
) -> None:
    assert gain_verdict(bounds) == verdict


def test_reranking_few_hits_leaves_longer_lists_as_they_are(
    copied: Trained, make_params: MakeParams
) -> None:
    layout, _ = copied
    retrieval(make_params(retrieval={"rerank": 5}), layout)
    reranked = metrics(layout, "retrieval")["scenes"]["reranked"]
    assert reranked["gain_t2i_r5"] == reranked["gain_t2i_r10"] == 0
    assert reranked["interval"]["gain_t2i_r10"] == [0, 0]


def test_no_reranking_leaves_its_row_out_and_changes_no_other_number(
    copied: Trained, make_params: MakeParams
) -> None:
    layout, _ = copied
    before = metrics(layout, "retrieval")["scenes"]
    retrieval(make_params(retrieval={"rerank": 0}), layout)
    after = metrics(layout, "retrieval")["scenes"]
    assert "reranked" not in after and set(before) - set(after) == {"reranked"}
    assert after["teacher"] == before["teacher"]
    assert {k: v for k, v in after["student"].items() if k != "interval"} == pytest.approx(
        {k: v for k, v in before["student"].items() if k != "interval"}
    )


def test_a_student_without_trained_fusion_is_not_re_ranked(copied: Trained, log: Any) -> None:
    layout, params = copied
    path = layout.student / "run.json"
    record = json.loads(path.read_text())
    record["params"]["distill"]["losses"]["fusion"] = 0.0
    path.write_text(json.dumps(record))
    retrieval(params, layout)
    assert "reranked" not in metrics(layout, "retrieval")["scenes"]
    assert "fusion was not trained" in log.text


def test_evaluating_twice_gives_the_same_bytes(copied: Trained) -> None:
    layout, params = copied
    folders = layout.evaluation, layout.metrics
    wanted = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in wanted}
    for stage in (zero_shot, retrieval):
        stage(params, layout)
    assert {path: path.read_bytes() for path in wanted} == before


def test_images_without_labels_are_retrieved_and_not_classified(copied: Trained, log: Any) -> None:
    layout, params = copied
    path = layout.images / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [], "held_out": []}))
    zero_shot(params, layout)
    retrieval(params, layout)
    assert metrics(layout, "zero_shot") == {"scenes": {"absent": "scenes has no labels"}}
    assert "scenes has no labels" in log.text
    assert metrics(layout, "retrieval")["scenes"]["student"]["images"] == 12


def test_a_split_says_what_is_not_there(trained: Trained) -> None:
    layout, params = trained
    shards = open_cache(params, layout, "test")
    samples = list(shards)
    whole = CachedSplit.of(samples, shards.dim, captions=True)
    assert whole.labels is not None and whole.teacher is not None
    assert whole.teacher.norm(dim=1) == pytest.approx(torch.ones(12), abs=1e-5)
    assert (whole.size, len(whole.captions), len(whole.texts)) == (12, 36, 36)
    first = whole.texts[whole.image_of_text == 0]
    assert first.numpy() == pytest.approx(samples[0].text_embeddings.astype(np.float32), abs=1e-3)
    bare = [
        replace(s, view_embeddings=s.view_embeddings[:0], text_embeddings=s.text_embeddings[:0],
                captions=[], label=None)
        for s in samples
    ]  # fmt: skip
    empty = CachedSplit.of(bare, shards.dim, captions=True)
    assert (empty.labels, empty.teacher, empty.captions, empty.size) == (None, None, [], 12)
    assert empty.texts.shape == (0, shards.dim) and not len(empty.image_of_text)


def test_a_protocol_names_all_that_a_number_depends_on() -> None:
    transform = ImageTransform(size=64)
    one = protocol(
        "zero-shot", classes_part(["a", "b"]), transform=transform, bootstrap_samples=1000
    )
    pattern = r"zero-shot/2 classes [0-9a-f]{8}/64 px bicubic center/1000 bootstrap_samples"
    assert re.fullmatch(pattern, one["protocol"])
    assert re.fullmatch("[0-9a-f]{8}", one["protocol_id"])
    others = [
        protocol("retrieval", classes_part(["a", "b"]), transform=transform, bootstrap_samples=1000),
        protocol("zero-shot", classes_part(["b", "a"]), transform=transform, bootstrap_samples=1000),
        protocol("zero-shot", classes_part(["a", "b"]), transform=transform, bootstrap_samples=10),
        protocol("zero-shot", classes_part(["a", "b"]), bootstrap_samples=1000,
                 transform=replace(transform, interpolation="bilinear")),
        protocol("zero-shot", classes_part(["a", "b"]), bootstrap_samples=1000,
                 transform=replace(transform, size=32)),
    ]  # fmt: skip
    assert len({p["protocol_id"] for p in (one, *others)}) == 6
    again = protocol(
        "zero-shot", classes_part(["a", "b"]), transform=transform, bootstrap_samples=1000
    )
    assert again == one


def test_a_protocol_names_the_test_images_and_what_was_held_out(
    copied: Trained, params: Params
) -> None:
    layout, _ = copied
    dataset = Dataset.read(layout.images)
    before, images_part_before = (
        metrics(layout, "zero_shot")["scenes"],
        images_part(dataset, layout.images),
    )
    for name in ("zero_shot", "linear_probe"):
        assert f"/{images_part_before}/" in metrics(layout, name)["scenes"]["protocol"]
    assert f"/held out {len(dataset.held_out)} classes " in before["protocol"]
    path = layout.images / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out": dataset.held_out[1:]}))
    zero_shot(params, layout)
    assert metrics(layout, "zero_shot")["scenes"]["protocol_id"] != before["protocol_id"]


def test_as_many_other_images_are_another_protocol(copied: Trained) -> None:
    layout, _ = copied
    dataset, test = Dataset.read(layout.images), layout.images / "test"
    before = images_part(dataset, layout.images)
    manifest = Manifest.read(test)
    other = replace(manifest.shards[0], sha256="0" * 64)
    replace(manifest, shards=[other, *manifest.shards[1:]]).write(test)
    after = images_part(dataset, layout.images)
    assert after != before and after.rpartition(" ")[0] == before.rpartition(" ")[0]


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
