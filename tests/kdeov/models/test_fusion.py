"""Reading an image under a text."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov import CrossModalFusionModule
from kdeov.models.fusion import FUSIONS, fusion_loss, fusion_scores

WIDTH = 8


@pytest.fixture(params=FUSIONS)
def fusion(request):
    return CrossModalFusionModule(request.param, WIDTH)


@pytest.fixture
def trained(fusion):
    nn.init.normal_(fusion.out.weight)
    return fusion


def _dense(rows: int = 3) -> Tensor:
    return torch.randn(rows, WIDTH, 4, 5)


def _texts(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, WIDTH), dim=-1)


def test_fusion_starts_as_the_plain_embedding(fusion):
    dense = _dense()
    torch.testing.assert_close(fusion(dense, _texts(3)).embedding, dense.mean(dim=(2, 3)))


def test_trained_fusion_depends_on_the_text(trained):
    dense, texts = _dense(), _texts(3)
    fused, other = trained(dense, texts), trained(dense, texts.flip(0))
    assert not torch.allclose(fused.embedding[0], other.embedding[0], atol=1e-2)
    torch.testing.assert_close(fused.embedding[1], other.embedding[1])  # the same text


def test_relevance_has_a_value_for_each_location(trained):
    fused = trained(_dense(), _texts(3))
    assert fused.embedding.shape == (3, WIDTH)
    assert fused.relevance.shape == (3, 4, 5)
    if trained.fusion_type == "film":  # cosines
        assert fused.relevance.abs().max() <= 1 + 1e-6
    else:  # shares of attention, 1 where it is even
        assert fused.relevance.min() >= 0
        torch.testing.assert_close(fused.relevance.mean(dim=(1, 2)), torch.ones(3))


def test_relevance_lies_where_the_features_are(fusion):
    text, dense = _texts(1), torch.randn(1, WIDTH, 4, 5)
    relevance, mirrored = (fusion(d, text).relevance for d in (dense, dense.flip(3)))
    torch.testing.assert_close(mirrored, relevance.flip(2))
    assert relevance.std() > 1e-3


def test_scores_are_those_of_one_text_at_a_time(trained):
    dense, texts = _dense(), _texts(3, 4)
    scores = fusion_scores(trained, dense, texts)
    assert scores.shape == (3, 4)
    for column in range(4):
        fused = trained(dense, texts[:, column]).embedding
        expected = F.cosine_similarity(fused, texts[:, column], dim=-1)
        torch.testing.assert_close(scores[:, column], expected)


def test_fusion_loss_gives_no_gradient_to_the_index_embedding(trained):
    dense, texts = _dense().requires_grad_(), _texts(3)
    fusion_loss(trained, dense, texts, texts, torch.arange(3)).backward()
    assert dense.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.out.parameters())


@pytest.mark.parametrize("negatives", [1, 2, 4, 9])
def test_fusion_loss_contrasts_the_own_text_with_the_hardest_others(trained, negatives):
    dense, all_text_embeddings, own = _dense(), _texts(6), torch.tensor([4, 0, 2])
    expected = 0.0
    for image, right in zip(dense, own.tolist(), strict=True):
        cosines = F.cosine_similarity(image.mean(dim=(1, 2))[None], all_text_embeddings, dim=-1)
        others = sorted(set(range(6)) - {right}, key=lambda row: -cosines[row])[:negatives]
        scores = (
            fusion_scores(trained, image[None], all_text_embeddings[[right, *others]][None])[0]
            / 0.05
        )
        expected += (scores.logsumexp(0) - scores[0]).item() / 3
    loss = fusion_loss(
        trained, dense, all_text_embeddings[own], all_text_embeddings, own, negatives=negatives
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_single_text_has_no_negatives(fusion):
    text = _texts(1)
    assert fusion_loss(fusion, _dense(1), text, text, torch.tensor([0])).item() == 0


@pytest.mark.parametrize("copies", [2, 3])
def test_the_same_caption_is_no_negative(fusion, copies):
    # Images 0 and up share a caption, so the last text is the only negative
    dense, text, other = _dense(copies), _texts(1), _texts(1)
    all_text_embeddings = torch.cat([text.expand(copies, -1), other])
    loss = fusion_loss(
        fusion, dense, all_text_embeddings[:copies], all_text_embeddings, torch.arange(copies)
    )
    scores = F.cosine_similarity(
        dense.mean(dim=(2, 3))[:, None], all_text_embeddings[-2:][None], dim=-1
    )
    margins = ((scores[:, 1] - scores[:, 0]) / 0.05).tolist()
    expected = sum(math.log1p(math.exp(margin)) for margin in margins) / copies
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_unknown_fusion_is_reported_with_the_known_ones(mistake):
    with mistake("'concat'", *FUSIONS):
        CrossModalFusionModule("concat")


def test_a_width_that_the_heads_do_not_divide_is_refused(mistake):
    with mistake("4 heads", "30 dimensions"):
        CrossModalFusionModule("cross_attention", 30)
    assert CrossModalFusionModule("film", 30)(torch.ones(1, 30, 2, 2), torch.ones(1, 30))
