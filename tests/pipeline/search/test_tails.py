"""A probability says how often other images score as high for the very query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.search.tails import ScoreTail

CUT = 0.01


def passing(scores: np.ndarray, background: int, splits: int, seed: int = 0) -> float:
    """Share of unseen scores at the cut, as the mean over random splits."""
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(splits):
        order = rng.permutation(len(scores))
        tail = ScoreTail.fit(scores[order[:background]])
        shares.append((tail.probabilities(scores[order[background:]]) <= CUT).mean())
    return float(np.mean(shares))


def test_the_cut_passes_its_share_of_unseen_images_on_each_of_twenty_genuine_queries(
    shared_data: Path,
) -> None:
    folder = shared_data / "clip_vitb32"
    stored = torch.load(folder / "cifar10_500" / "image_embeddings.pt", weights_only=True)
    images = unit(stored.float().numpy())
    coco = np.load(folder / "class_names" / "coco_clip_a+cname.npy")
    lvis = np.load(folder / "class_names" / "lvis_v1_clip_a+cname.npy")
    queries = unit(np.concatenate([coco[20:80:6], lvis[5::120][:10]]).astype(np.float32))
    assert len(queries) == 20
    scores = images @ queries.T
    shares = [passing(scores[:, number], 400, splits=400) for number in range(20)]
    assert min(shares) >= 0.005 and max(shares) <= 0.02
    fixed = (scores >= np.quantile(scores, 1 - CUT)).mean(axis=0)  # one cosine for all queries
    assert fixed.max() >= 5 * max(fixed.min(), 1 / len(images))


@pytest.mark.parametrize("kind", ["normal", "bounded", "heavy"])
def test_probabilities_are_near_the_truth_down_to_a_thousandth(kind: str) -> None:
    rng = np.random.default_rng(1)
    draw = {
        "normal": lambda count: rng.standard_normal(count),
        "bounded": lambda count: rng.beta(3, 3, count),
        "heavy": lambda count: rng.standard_t(6, count),
    }[kind]
    tail, unseen = ScoreTail.fit(draw(10_000)), draw(2_000_000)
    for probability in (0.1, 0.01, 1e-3):
        passed = (tail.probabilities(unseen) <= probability).mean()
        assert probability / 2 <= passed <= probability * 2, probability


def test_probabilities_fall_with_scores_and_lie_between_0_and_1() -> None:
    tail = ScoreTail.fit(np.random.default_rng(2).standard_normal(3000) * 0.03 + 0.2)
    found = tail.probabilities(np.linspace(-1, 1, 5001))
    assert (np.diff(found) <= 1e-12).all() and found.min() >= 0 and found.max() == 1


@pytest.mark.parametrize("scores", [[0.2], [0.2] * 5, [0.2] * 500, [0.1, 0.3]])
def test_small_and_equal_backgrounds_have_plain_counts(scores: list[float]) -> None:
    found = ScoreTail.fit(np.array(scores)).probabilities(np.array([0.0, 0.2, 0.9]))
    assert found[0] == 1 and (np.diff(found) <= 0).all() and np.isfinite(found).all()
    if len(scores) < 10:
        assert found[2] == pytest.approx(1 / (len(scores) + 1))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
