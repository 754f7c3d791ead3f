"""Re-ranking scores the pairs that a search finds, and each as the fusion module alone would."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.models.fusion import FUSIONS, CrossModalFusionModule
from pipeline.evaluation.shared.reranking import pair_scores, rerank

CPU = torch.device("cpu")
WIDTH = 128


@pytest.fixture(params=FUSIONS)
def fusion(request: pytest.FixtureRequest) -> CrossModalFusionModule:
    module = CrossModalFusionModule(request.param, WIDTH)
    nn.init.normal_(module.out.weight, std=0.1)
    return module


def _data(images: int, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Dense maps of half precision as the evaluation keeps them, texts, and their similarity."""
    torch.manual_seed(0)
    dense = torch.randn(images, WIDTH, 2, 2).half()
    queries = F.normalize(torch.randn(texts, WIDTH), dim=-1)
    return dense, queries, F.normalize(dense.float().mean(dim=(2, 3)), dim=-1) @ queries.T


def test_scores_of_pairs_are_those_of_the_module(fusion: CrossModalFusionModule) -> None:
    dense, texts, _ = _data(9, 150)  # image 3 is found by no text, image 5 by all
    candidates = torch.stack([torch.tensor([5, *torch.randperm(3)[:2].tolist()]) for _ in texts])
    scores = pair_scores(fusion, dense, texts, candidates, CPU)
    with torch.no_grad():
        for column in range(3):
            maps = dense[candidates[:, column]].float()
            expected = F.cosine_similarity(fusion(maps, texts).embedding, texts, dim=-1)
            torch.testing.assert_close(scores[:, column], expected, rtol=0, atol=1e-5)


def test_reranking_sorts_the_first_hits_by_their_scores(fusion: CrossModalFusionModule) -> None:
    dense, texts, similarity = _data(30, 20)
    top = similarity.T.topk(12, dim=1).indices
    scores = pair_scores(fusion, dense, texts, top, CPU)
    for place in (0, 4, 11):  # all texts describe the image that stands there after re-ranking
        own = top.gather(1, scores.argsort(dim=1, descending=True))[:, place]
        found = rerank(fusion, dense, texts, similarity, own, 12, CPU)
        for k in (1, 5, 10):
            assert found[f"t2i_r{k}"].totals.sum() == (len(texts) if place < k else 0)


def test_a_thousand_texts_are_re_ranked_within_a_second(fusion: CrossModalFusionModule) -> None:
    dense, texts, similarity = _data(1024, 1000)
    own = torch.arange(1000)
    start = time.thread_time()  # of this thread alone: the machine may be busy
    rerank(fusion, dense, texts, similarity, own, 50, CPU)
    assert time.thread_time() - start <= 1
