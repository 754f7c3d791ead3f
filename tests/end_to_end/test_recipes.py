"""Recipes as a person uses them: `kdeov use`, then `dvc repro`, on real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import sample_json
from tests.helpers.checkouts import Checkout

QUICK = (
    "teacher.source=tiny", "teacher.tiny.epochs=1", "embed.views=2", "distill.image_size=64",
    "distill.epochs=1", "cluster.mode=inline",
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
def reproduce(new_checkout: Callable[[], Checkout], shared_data: Path) -> Callable[..., Checkout]:
    """Follows a recipe in a new checkout, to some stages."""

    def run(name: str, *changes: str, stages: tuple[str, ...]) -> Checkout:
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
        assert len(manifests) == 3
        assert all(len(Manifest.read(path.parent).rejected) == 0 for path in manifests)
        return checkout

    return run


def metrics_of(checkout: Checkout) -> dict[str, Any]:
    """The metrics of each stage."""
    files = (checkout.path / "metrics").glob("*.json")
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "images"),
    [("flickr8k", (), 1000), ("coco", ("prepare.coco.val=0.1",), 159)],
)
def test_the_images_of_a_recipe_become_shards_with_all_of_their_captions(
    reproduce: Any, name: str, changes: tuple[str, ...], images: int
) -> None:
    """What comes after the shards is the same for all data with captions: see the next test."""
    checkout = reproduce(name, *changes, stages=("prepare",))
    captions = [
        sample_json(sample)["captions"]
        for split in SPLITS
        for folder in [ShardFolder(checkout.path / "out" / "images") / split]
        for shard in folder.manifest().shards
        for _, sample in folder.read(shard)
    ]
    assert len(captions) == images
    assert all(len(texts) >= 5 for texts in captions)


@pytest.mark.slow
def test_novel_classes_of_coco_are_transfer_as_the_trunk_has_seen_their_boxes(
    reproduce: Any,
) -> None:
    checkout = reproduce(
        "coco-detection", *QUICK, "prepare.coco.val=0.1", "embed.regions.count=2",
        "train_boxes.image_size=128", "train_boxes.epochs=1", "train_boxes.global_batch_size=16",
        "train_boxes.micro_batch_size=8", "train_boxes.num_streams=4", "detection.proposals=50",
        stages=("detection", "retrieval"),
    )  # fmt: skip
    found = metrics_of(checkout)
    assert found["retrieval"]["coco"]["student"]["images"] == 79
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
    checkout = reproduce("cifar10-embeddings", stages=("zero_shot", "linear_probe", "retrieval"))
    found = metrics_of(checkout)
    result = found["zero_shot"]["cifar10"]
    assert "teacher" not in result and result["left_out"] == 1500 - result["student"]["count"]
    assert result["student"]["top1"] >= 0.72
    assert "absent" in found["retrieval"]["cifar10"]
    assert "absent" in found["linear_probe"]["cifar10"]
