"""The linear probe: what it learns from, and what it says where there is nothing to learn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.linear_probe import Labelled, _labelled, _probe, linear_probe
from pipeline.evaluation.shared.embeddings import read_split

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def metrics(layout: Layout) -> dict[str, Any]:
    return json.loads((layout.metrics / "linear_probe.json").read_text())


def test_teacher_and_student_are_probed_on_the_classes_that_training_shows(
    trained: Trained,
) -> None:
    layout, params = trained
    scores = metrics(layout)["scenes"]
    train, test = (read_split(params, layout, split) for split in ("train", "test"))
    assert train.labels is not None and test.labels is not None
    known = torch.isin(test.labels, train.labels)
    assert scores["student"]["count"] == scores["teacher"]["count"] == int(known.sum()) > 0
    assert scores["left_out"] == int((~known).sum()) > 0
    for who in ("teacher", "student"):
        assert scores["C_grid"][who] in params.linear_probe.C_grid
        low, high = scores[who]["interval"]["top1"]
        assert 0 <= low <= scores[who]["top1"] <= high <= 1
    assert f"{len(train.labels.unique())} classes" in scores["protocol"]
    assert "logistic regression, C of 1, 10, 100, 1000" in scores["protocol"]


def test_the_validation_split_chooses_and_is_then_learned_from() -> None:
    torch.manual_seed(0)
    labels = {"train": 60, "val": 60, "test": 90}
    data = {s: Labelled(torch.arange(n), torch.randint(0, 3, (n,))) for s, n in labels.items()}
    centres = torch.randn(3, 8)
    vectors = {
        s: F.normalize(centres[part.labels] + 1.5 * torch.randn(len(part.labels), 8), dim=-1)
        for s, part in data.items()
    }
    grid = [0.01, 1.0, 100.0]
    best, logits = _probe(vectors, data, grid, 3)
    x = {s: v.double().numpy() for s, v in vectors.items()}
    y = {s: part.labels.numpy() for s, part in data.items()}
    naive = {c: LogisticRegression(C=c, max_iter=1000).fit(x["train"], y["train"]) for c in grid}
    assert best == max(grid, key=lambda c: naive[c].score(x["val"], y["val"]))
    both = {k: torch.cat([torch.from_numpy(v[s]) for s in ("train", "val")]) for k, v in
            (("x", x), ("y", y))}  # fmt: skip
    final = LogisticRegression(C=best, max_iter=1000).fit(both["x"].numpy(), both["y"].numpy())
    assert logits.argmax(dim=1).tolist() == final.predict(x["test"]).tolist()


@pytest.mark.parametrize(("grid", "on_progress"), [([0.1, 1.0], True), ([1.0], False)])
def test_a_choice_at_the_edge_of_the_grid_is_told(
    log: Any, grid: list[float], on_progress: bool
) -> None:
    labels = torch.arange(20) % 2
    vectors = F.normalize(torch.stack([labels * 2.0 - 1, torch.ones(20)], dim=1), dim=-1)
    data = {split: Labelled(torch.arange(20), labels) for split in ("train", "val", "test")}
    _probe(dict.fromkeys(data, vectors), data, grid, 2)
    assert ("at the edge of linear_probe.C_grid" in log.text) == on_progress


def test_two_classes_are_told_apart_too() -> None:
    labels = torch.arange(20) % 2
    vectors = F.normalize(torch.stack([labels * 2.0 - 1, torch.ones(20)], dim=1), dim=-1)
    data = {split: Labelled(torch.arange(20), labels) for split in ("train", "val", "test")}
    _, logits = _probe(dict.fromkeys(data, vectors), data, [1.0], 2)
    assert logits.shape == (20, 2) and torch.equal(logits.argmax(dim=1), labels)


def test_probing_twice_gives_the_same_bytes(copied: Trained) -> None:
    layout, params = copied
    before = (layout.metrics / "linear_probe.json").read_bytes()
    linear_probe(params, layout)
    assert (layout.metrics / "linear_probe.json").read_bytes() == before


def test_images_without_labels_leave_nothing_to_probe(copied: Trained, log: Any) -> None:
    layout, params = copied
    path = layout.images / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [], "held_out": []}))
    linear_probe(params, layout)
    assert metrics(layout) == {"scenes": {"absent": "scenes has no labels"}}
    assert "scenes has no labels: no linear probe" in log.text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_labels_is_told_of(trained: Trained, split: str) -> None:
    layout, params = trained
    dataset = Dataset.read(layout.images)
    cached = {name: read_split(params, layout, name) for name in SPLITS}
    assert isinstance(_labelled(dataset, cached), dict)
    bare = cached | {split: replace(cached[split], labels=None)}
    assert _labelled(dataset, bare) == f"images of {split} have no labels"


def test_training_images_of_a_single_class_teach_nothing(trained: Trained) -> None:
    layout, params = trained
    cached = {name: read_split(params, layout, name) for name in SPLITS}
    one = replace(cached["train"], labels=torch.zeros(24, dtype=torch.long))
    found = _labelled(Dataset.read(layout.images), cached | {"train": one})
    assert found == "training images are of a single class"
