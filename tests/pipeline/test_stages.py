"""What `distill` and `efficiency` write: students that load, and figures of their own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdeov.models.model import KDEOVModel
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.training.distill import distill

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


def metrics(layout: Layout, name: str) -> dict[str, Any]:
    return json.loads((layout.metrics / f"{name}.json").read_text(encoding="utf-8"))


def test_the_student_loads_and_sees_images(trained: Trained) -> None:
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
    with open(layout.metrics / "history.csv", encoding="utf-8") as file:
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
        (
            {"distill": {"losses": {"feature": 0, "contrastive": 0, "fusion": 1}}},
            ["every weight is 0"],
        ),
        ({"distill": {"backbone_weights": "/no/such.pt"}}, ["/no/such.pt"]),
        (
            {"distill": {"global_batch_size": 8}, "cluster": {"mode": "local", "num_workers": 3}},
            ["global_batch_size = 8", "3 workers"],
        ),
        (
            {
                "distill": {
                    "global_batch_size": 26,
                    "num_streams": 26,
                    "micro_batch_size": 1,
                    "image_size": 64,
                    "losses": {"mosaic": 0},
                },
                "cluster": {"mode": "local", "num_workers": 26},
            },
            ["24 training images are fewer than 26 workers"],
        ),
        ({"distill": {"num_streams": 3}}, ["global_batch_size = 8", "distill.num_streams = 3"]),
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
