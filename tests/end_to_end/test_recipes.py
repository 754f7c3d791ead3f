"""Recipes as a person uses them: `kdeov use`, then `dvc repro`, on real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkouts import Checkout

QUICK = (
    "teacher.source=tiny", "teacher.tiny.epochs=1", "embed.views=2", "distill.image_size=64",
    "distill.epochs=1", "efficiency.repeats=2", "cluster.mode=inline",
)  # fmt: skip


PLACES = {
    "flickr8k": "flickr8k_1k",
    "coco": "coco_mini",
    "cifar10/cifar10.npz": "cifar10/cifar10_train5000_test2000.npz",
    "clip_vitb32": "clip_vitb32",
    "yolo/yolov8n.pt": "yolo/yolov8n_state_dict.pt",
    "yolo/yolov5su.pt": "yolo/yolov5s_state_dict.pt",
}
"""What recipes read below `data/`, and what stands for it below the shared data."""


@pytest.fixture
def reproduce(
    new_checkout: Callable[[], Checkout], shared_data: Path
) -> Callable[..., dict[str, Any]]:
    """Follows a recipe, to the report or to some stages; returns the metrics of each stage."""

    def run(name: str, *changes: str, stages: tuple[str, ...] = ()) -> dict[str, Any]:
        checkout = new_checkout()
        settings = [word for change in changes for word in ("--set", change)]
        for place, source in PLACES.items():
            path = checkout.path / "data" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(shared_data / source)
        used = checkout.run("kdeov", "use", name, *settings)
        assert "run `dvc repro`" in used.stdout
        checkout.run("dvc", "repro", *stages)
        manifests = list((checkout.path / "out" / "images").glob("*/manifest.json"))
        rejected = [
            r for m in manifests for r in json.loads(m.read_text(encoding="utf-8"))["rejected"]
        ]
        assert len(manifests) == 3 and rejected == []
        if not stages:
            assert (checkout.path / "out" / "report" / "index.html").is_file()
            assert "Running stage" not in checkout.run("dvc", "repro").stdout
        files = (checkout.path / "metrics").glob("*.json")
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}

    return run


@pytest.mark.slow
def test_the_thousand_images_of_flickr8k_go_through(reproduce: Any) -> None:
    found = reproduce("flickr8k", *QUICK, stages=("zero_shot", "retrieval"))
    scores = found["retrieval"]["flickr8k"]["student"]
    assert scores["images"] > 60 and scores["texts"] == 5 * scores["images"]
    assert found["zero_shot"]["flickr8k"] == {"absent": "flickr8k has no labels"}


@pytest.mark.slow
def test_the_images_of_coco_go_through_with_its_own_test_split(reproduce: Any) -> None:
    found = reproduce("coco", *QUICK, "prepare.coco.val=0.1", stages=("retrieval",))
    assert found["retrieval"]["coco"]["student"]["images"] == 79


@pytest.mark.slow
def test_detection_on_coco_goes_to_the_report_with_its_novel_classes_called_transfer(
    reproduce: Any,
) -> None:
    found = reproduce(
        "coco-detection", *QUICK, "prepare.coco.val=0.1", "embed.regions.count=2",
        "train_boxes.image_size=128", "train_boxes.epochs=1", "train_boxes.global_batch_size=16",
        "train_boxes.micro_batch_size=8", "train_boxes.num_streams=4", "detection.proposals=50",
        "export.calibration_images=0",
    )  # fmt: skip
    scores = found["detection"]["coco"]
    assert scores["count"] == 79 and scores["classes"] == 65
    # the trunk has COCO's weights, so nothing of COCO is new to it
    assert "held_out" not in scores and scores["transfer"]["classes"] == 17
    assert scores["transfer"]["boxes_seen"] == 17 and scores["base"]["boxes_seen"] == 48
    assert scores["left_out"]["crowds"] > 0 and scores["left_out"]["boxes of other classes"] > 0
    for group in ("base", "transfer", "all"):
        low, high = scores[group]["interval"]["ar50_10"]
        assert 0 <= low <= scores[group]["ar50_10"] <= high <= 1


@pytest.mark.slow
def test_500_vectors_teach_a_student_to_name_images_that_it_never_saw(reproduce: Any) -> None:
    """No label and no tower; the frozen backbone with a two-layer head reaches 0.67."""
    found = reproduce("cifar10-embeddings", stages=("zero_shot", "linear_probe", "retrieval"))
    result = found["zero_shot"]["cifar10"]
    assert "teacher" not in result and result["left_out"] == 1500 - result["student"]["count"]
    assert result["student"]["top1"] >= 0.72
    assert "absent" in found["retrieval"]["cifar10"]
    assert "absent" in found["linear_probe"]["cifar10"]
