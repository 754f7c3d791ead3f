"""The deployed forms of the student are measured, and the cost of INT8 is a difference."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import torch

from kdeov.evaluation.bootstrap import values_of
from kdeov.evaluation.metrics import retrieval
from kdeov.runtime.card import CARD, IMAGE, INT8, read_card
from kdeov.weights.digests import sha256_file
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.loader import EvaluationStream
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.deployed.forms import export_of, measure_forms, onnx_tower
from pipeline.evaluation.deployed.int8_cost import int8_cost
from pipeline.evaluation.efficiency import efficiency
from pipeline.evaluation.shared.embeddings import read_arrays, read_split
from pipeline.evaluation.shared.student import student_of
from tests.helpers.results import edit_json, read_metrics, remove_labels

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def deployed(paths: Layout) -> dict[str, Any]:
    text = (paths.metrics / "efficiency.json").read_text(encoding="utf-8")
    return json.loads(text)["deployed"]


def without_int8(paths: Layout) -> None:
    """Makes the export one that was made without images to calibrate on."""
    edit_json(paths.export / CARD, lambda v: v["files"].pop(INT8))
    (paths.export / INT8).unlink()


def embeddings(paths: Layout, params: Params, file: str) -> np.ndarray:
    """Embeddings [N, D] of the test images, by a file of the export."""
    model, card = student_of(paths, "cpu"), read_card(paths.export)
    tower = onnx_tower(paths.export, card, file, threads=1)
    stream = EvaluationStream(open_cache(params, paths, "test"), model.transform, 4)
    return np.concatenate([tower(batch.pixels.numpy()) for batch in stream])


def test_every_form_has_its_bytes_and_its_latencies(trained: Trained) -> None:
    paths, _ = trained
    found = deployed(paths)
    files = {
        "torch": paths.student / "student.safetensors",
        "onnx": paths.export / IMAGE,
        "int8": paths.export / INT8,
    }
    assert found["forms"].keys() == files.keys()
    for form, path in files.items():
        measured = found["forms"][form]
        assert measured["file_bytes"] == path.stat().st_size
        assert measured["latency_ms"].keys() == {"one_thread", "all_threads"}
        for by_batch in measured["latency_ms"].values():
            assert by_batch.keys() == {"1"}  # of these params
            assert all(value > 0 for value in by_batch.values())
    assert found["forms"]["int8"]["file_bytes"] < 0.6 * found["forms"]["onnx"]["file_bytes"]
    assert found["image_size"] == 32 and found["card"] == sha256_file(paths.export / CARD)
    assert torch.get_num_threads() == 1


def test_single_images_and_batches_are_measured_on_one_thread_and_on_all(trained: Trained) -> None:
    paths, params = trained
    options = params.efficiency.model_copy(update={"batch_size": 3, "repeats": 1})
    weights = paths.student / "student.safetensors"
    found = measure_forms(
        student_of(paths, "cpu"), paths.export, read_card(paths.export), weights, options
    )
    assert (found["batch_size"], found["threads"]) == (3, len(os.sched_getaffinity(0)))
    for form in found["forms"].values():
        measured = form["latency_ms"]
        assert {name: set(values) for name, values in measured.items()} == {
            "one_thread": {"1", "3"}, "all_threads": {"1", "3"},
        }  # fmt: skip


def test_the_cost_of_int8_in_top1_is_that_of_its_predictions(trained: Trained) -> None:
    paths, params = trained
    known = read_arrays(paths.evaluation / "zero_shot" / "predictions.npz")
    top1 = {
        file: float(
            ((embeddings(paths, params, file)[known["images"]] @ known["weights"].T).argmax(1)
             == known["labels"]).mean()
        )
        for file in (IMAGE, INT8)
    }  # fmt: skip
    cost = deployed(paths)["int8_cost"]["zero_shot"]
    assert top1[IMAGE] == pytest.approx(read_metrics(paths, "zero_shot")["student"]["top1"])
    assert cost["top1"] == pytest.approx(top1[INT8])
    assert cost["gain_top1"] == pytest.approx(top1[INT8] - top1[IMAGE])
    low, high = cost["interval"]["gain_top1"]
    assert low <= cost["gain_top1"] <= high


def test_the_cost_of_int8_in_recall_is_that_of_its_similarities(trained: Trained) -> None:
    paths, params = trained
    cached = read_split(params, paths, "test", captions=True)
    recalls = {}
    for file in (IMAGE, INT8):
        images = torch.nn.functional.normalize(torch.from_numpy(embeddings(paths, params, file)))
        metrics = retrieval((cached.texts @ images.T).T, cached.image_of_text)
        recalls[file] = values_of(metrics, cached.size)
    cost = deployed(paths)["int8_cost"]["retrieval"]
    for key in ("i2t_r5", "t2i_r5"):
        assert cost[key] == pytest.approx(recalls[INT8][key])
        assert cost[f"gain_{key}"] == pytest.approx(recalls[INT8][key] - recalls[IMAGE][key])
    assert cost.keys() == {"i2t_r5", "t2i_r5", "gain_i2t_r5", "gain_t2i_r5", "interval"}


def test_without_labels_int8_has_a_cost_in_retrieval_alone(copied: Trained) -> None:
    paths, params = copied
    remove_labels(paths)
    cost = int8_cost(params, paths, student_of(paths, "cpu"), read_card(paths.export))
    assert cost is not None and cost["zero_shot"] is None
    assert cost["retrieval"] == deployed(paths)["int8_cost"]["retrieval"]


def test_an_export_without_int8_has_no_cost_and_no_latencies_of_it(copied: Trained) -> None:
    paths, params = copied
    without_int8(paths)
    efficiency(params, paths)
    found = deployed(paths)
    assert found["int8_cost"] is None and found["forms"]["int8"] is None
    assert found["forms"]["onnx"]["latency_ms"]["one_thread"]["1"] > 0


def test_an_export_of_another_student_is_refused(copied: Trained, complains: Any) -> None:
    paths, params = copied
    before = (paths.metrics / "efficiency.json").read_bytes()
    edit_json(paths.export / CARD, lambda v: v.update(fingerprint="0" * 16))
    with complains(paths.export, "0" * 16, "dvc repro export"):
        efficiency(params, paths)
    assert (paths.metrics / "efficiency.json").read_bytes() == before


@pytest.mark.parametrize("file", [CARD, IMAGE, INT8])
def test_a_missing_file_of_the_export_names_its_stage(
    copied: Trained, complains: Any, file: str
) -> None:
    paths, params = copied
    (paths.export / file).unlink()
    with complains(paths.export, "dvc repro export"):
        efficiency(params, paths)


def test_a_damaged_file_of_the_export_is_not_measured(copied: Trained, complains: Any) -> None:
    paths, params = copied
    data = bytearray((paths.export / INT8).read_bytes())
    data[len(data) // 2] ^= 1
    (paths.export / INT8).write_bytes(data)
    with complains(INT8, "dvc repro export"):
        efficiency(params, paths)


def test_the_export_that_is_measured_is_that_of_the_student(trained: Trained) -> None:
    paths, _ = trained
    run = json.loads((paths.student / "run.json").read_text(encoding="utf-8"))
    assert export_of(paths).fingerprint == run["fingerprint"]
