"""Retrieval metrics follow from the hits beside them, and re-ranking states its gain."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdeov.evaluation.metrics import retrieval_ceiling
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import embed
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.shared.embeddings import read_arrays, read_split
from pipeline.evaluation.shared.protocol import images_part
from pipeline.evaluation.shared.reranking import gain_verdict
from pipeline.prepare.prepare import prepare
from tests.helpers.results import read_metrics, untrain_fusion

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


def test_retrieval_metrics_follow_from_the_hits(trained: Trained) -> None:
    paths, _ = trained
    scores = read_metrics(paths, "retrieval")
    arrays = read_arrays(paths.evaluation / "retrieval" / "hits.npz")
    own = arrays["image_of_text"][:, None]
    assert arrays["hits"].shape == (36, 5)
    for k in (1, 5):
        found = (arrays["hits"][:, :k] == own).any(axis=1).mean()
        assert scores["student"][f"t2i_r{k}"] == pytest.approx(found)
    assert (scores["teacher"]["images"], scores["teacher"]["texts"]) == (12, 36)
    images = images_part(Dataset.read(paths.images), ShardFolder(paths.images), 36)
    assert images.startswith("scenes 12 test images with 36 captions ")
    assert scores["protocol"].startswith(f"retrieval/{images}/")
    for way in ("i2t", "t2i"):
        recalls = [scores["student"][f"{way}_r{k}"] for k in (1, 5, 10)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1


def test_the_ceiling_is_that_of_the_captions_at_hand(trained: Trained, log: Any) -> None:
    paths, params = trained
    scores, cached = read_metrics(paths, "retrieval"), read_split(params, paths, "test", True)
    assert scores["ceiling"] == retrieval_ceiling(cached.captions, cached.image_of_text)
    for model in ("teacher", "student"):
        for key, value in scores["ceiling"].items():
            assert scores[model][key] <= value + 1e-9 or key.startswith("i2t")


def test_a_search_among_one_image_has_no_numbers(
    tmp_path: Path, make_params: MakeParams, trained: Trained
) -> None:
    paths, _ = trained
    one = Layout(tmp_path)
    params = make_params(prepare={"scenes": {"train": 8, "val": 1, "test": 1}})
    prepare(params, one)
    for folder in ("teacher", "student"):
        shutil.copytree(paths.root / "out" / folder, tmp_path / "out" / folder)
    embed(params, one)
    retrieval(params, one)
    assert read_metrics(one, "retrieval") == {"absent": "a search among one image is always right"}


def test_reranking_states_its_gain_over_the_same_student(trained: Trained) -> None:
    scores = read_metrics(trained[0], "retrieval")
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
def test_the_interval_of_a_gain_decides_its_verdict(
    bounds: tuple[float, float], verdict: str
) -> None:
    assert gain_verdict(bounds) == verdict


def test_reranking_few_hits_leaves_longer_lists_as_they_are(
    copied: Trained, make_params: MakeParams
) -> None:
    paths, _ = copied
    retrieval(make_params(retrieval={"rerank": 5}), paths)
    reranked = read_metrics(paths, "retrieval")["reranked"]
    assert reranked["gain_t2i_r5"] == reranked["gain_t2i_r10"] == 0
    assert reranked["interval"]["gain_t2i_r10"] == [0, 0]


def test_no_reranking_leaves_its_row_out_and_changes_no_other_number(
    copied: Trained, make_params: MakeParams
) -> None:
    paths, _ = copied
    before = read_metrics(paths, "retrieval")
    retrieval(make_params(retrieval={"rerank": 0}), paths)
    after = read_metrics(paths, "retrieval")
    assert "reranked" not in after and set(before) - set(after) == {"reranked"}
    assert after["teacher"] == before["teacher"]
    assert {k: v for k, v in after["student"].items() if k != "interval"} == pytest.approx(
        {k: v for k, v in before["student"].items() if k != "interval"}
    )


def test_a_student_without_trained_fusion_is_not_re_ranked(copied: Trained, log: Any) -> None:
    paths, params = copied
    untrain_fusion(paths)
    retrieval(params, paths)
    assert "reranked" not in read_metrics(paths, "retrieval")
    assert "fusion was not trained" in log.text
