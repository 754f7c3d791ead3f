"""The linear probe: its training data, its choice of C, and data sets without a probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.linear_probe import (
    ProbeData,
    ProbeImages,
    fit_probe,
    linear_probe,
    probe_data,
)
from pipeline.evaluation.shared.embeddings import read_split
from tests.helpers.results import read_metrics, remove_labels

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def test_teacher_and_student_are_probed_on_the_classes_that_training_shows(
    trained: Trained,
) -> None:
    paths, params = trained
    scores = read_metrics(paths, "linear_probe")
    train, test = (read_split(params, paths, split) for split in ("train", "test"))
    assert train.labels is not None and test.labels is not None
    known = torch.isin(test.labels, train.labels)
    assert scores["student"]["count"] == scores["teacher"]["count"] == int(known.sum()) > 0
    assert scores["left_out"] == int((~known).sum()) > 0
    for model in ("teacher", "student"):
        assert scores["C"][model] in params.linear_probe.C_grid
        low, high = scores[model]["interval"]["top1"]
        assert 0 <= low <= scores[model]["top1"] <= high <= 1
    assert f"{len(train.labels.unique())} classes" in scores["protocol"]
    assert "logistic regression, C of 1, 10, 100, 1000" in scores["protocol"]


def test_the_validation_split_chooses_and_is_then_trained_on() -> None:
    torch.manual_seed(0)
    labels = {"train": 60, "val": 60, "test": 90}
    data = {s: ProbeImages(torch.arange(n), torch.randint(0, 3, (n,))) for s, n in labels.items()}
    centres = torch.randn(3, 8)
    embeddings = {
        s: F.normalize(centres[part.labels] + 1.5 * torch.randn(len(part.labels), 8), dim=-1)
        for s, part in data.items()
    }
    grid = [0.01, 1.0, 100.0]
    best, logits = fit_probe(embeddings, data, grid, 3)
    x = {s: v.double().numpy() for s, v in embeddings.items()}
    y = {s: part.labels.numpy() for s, part in data.items()}
    naive = {c: LogisticRegression(C=c, max_iter=1000).fit(x["train"], y["train"]) for c in grid}
    assert best == max(grid, key=lambda c: naive[c].score(x["val"], y["val"]))
    both = {k: torch.cat([torch.from_numpy(v[s]) for s in ("train", "val")]) for k, v in
            (("x", x), ("y", y))}  # fmt: skip
    final = LogisticRegression(C=best, max_iter=1000).fit(both["x"].numpy(), both["y"].numpy())
    assert logits.argmax(dim=1).tolist() == final.predict(x["test"]).tolist()


@pytest.mark.parametrize(("grid", "is_logged"), [([0.1, 1.0], True), ([1.0], False)])
def test_a_choice_at_the_edge_of_the_grid_is_logged(
    log: Any, grid: list[float], is_logged: bool
) -> None:
    labels = torch.arange(20) % 2
    embeddings = F.normalize(torch.stack([labels * 2.0 - 1, torch.ones(20)], dim=1), dim=-1)
    data = {split: ProbeImages(torch.arange(20), labels) for split in ("train", "val", "test")}
    fit_probe(dict.fromkeys(data, embeddings), data, grid, 2)
    assert ("at the edge of linear_probe.C_grid" in log.text) == is_logged


def test_a_probe_separates_two_classes_too() -> None:
    labels = torch.arange(20) % 2
    embeddings = F.normalize(torch.stack([labels * 2.0 - 1, torch.ones(20)], dim=1), dim=-1)
    data = {split: ProbeImages(torch.arange(20), labels) for split in ("train", "val", "test")}
    _, logits = fit_probe(dict.fromkeys(data, embeddings), data, [1.0], 2)
    assert logits.shape == (20, 2) and torch.equal(logits.argmax(dim=1), labels)


def test_probing_twice_gives_the_same_bytes(copied: Trained) -> None:
    paths, params = copied
    before = (paths.metrics / "linear_probe.json").read_bytes()
    linear_probe(params, paths)
    assert (paths.metrics / "linear_probe.json").read_bytes() == before


def test_images_without_labels_leave_nothing_to_probe(copied: Trained, log: Any) -> None:
    paths, params = copied
    remove_labels(paths)
    linear_probe(params, paths)
    assert read_metrics(paths, "linear_probe") == {"absent": "scenes has no labels"}
    assert "scenes has no labels: no linear probe" in log.text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_labels_is_named(trained: Trained, split: str) -> None:
    paths, params = trained
    dataset = Dataset.read(paths.images)
    cached = {name: read_split(params, paths, name) for name in SPLITS}
    assert isinstance(probe_data(dataset, cached), ProbeData)
    bare = cached | {split: replace(cached[split], labels=None)}
    assert probe_data(dataset, bare) == f"images of {split} have no labels"


def test_training_images_of_a_single_class_allow_no_probe(trained: Trained) -> None:
    paths, params = trained
    cached = {name: read_split(params, paths, name) for name in SPLITS}
    one = replace(cached["train"], labels=torch.zeros(24, dtype=torch.long))
    found = probe_data(Dataset.read(paths.images), cached | {"train": one})
    assert found == "training images are of a single class"
