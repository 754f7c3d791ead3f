"""Fusion fitted to a finished student learns to re-rank what the index finds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.models.fusion import FUSIONS, CrossModalFusionModule, fusion_scores
from kdeov.training import fusion_fit
from kdeov.training.fusion_fit import FusionData, fit_fusion, steps_of

WIDTH, IMAGES, PARTS = 16, 160, 8


def _scenes() -> FusionData:
    """Images of two different parts, one large and one small, and two captions of each: an index
    that averages locations sees the large part, and captions name the small one too.
    """
    torch.manual_seed(0)
    words = F.normalize(torch.randn(2 * PARTS, WIDTH), dim=-1)
    large, small = torch.arange(IMAGES) % PARTS, torch.arange(IMAGES) // PARTS % PARTS
    dense = words[large][:, :, None].repeat(1, 1, 4)
    dense[:, :, 3] = words[PARTS + small]
    dense += 0.05 * torch.randn_like(dense)
    texts = F.normalize(words[large] + 0.6 * words[PARTS + small], dim=-1)
    texts = texts.repeat_interleave(2, dim=0)
    embedding = F.normalize(dense.mean(dim=2), dim=-1)
    numbers = torch.arange(IMAGES).repeat_interleave(2)
    return FusionData(dense.view(IMAGES, WIDTH, 2, 2).half(), embedding, texts, numbers)


def _margin(fusion: CrossModalFusionModule, data: FusionData) -> float:
    """How much higher a text's own image scores than the nearest image with another small part."""
    texts = data.texts[::2]
    small = torch.arange(IMAGES) // PARTS % PARTS
    cosines = (texts @ data.embedding.T).masked_fill(small[:, None] == small, -2)
    with torch.no_grad():
        own, other = (
            fusion_scores(fusion, data.dense[numbers].float(), texts[:, None])
            for numbers in (torch.arange(IMAGES), cosines.argmax(dim=1))
        )
    return float((own - other).mean())


@pytest.mark.parametrize("kind", FUSIONS)
def test_fitted_fusion_tells_an_image_from_those_that_the_index_confuses_it_with(
    kind: str,
) -> None:
    data, fusion = _scenes(), CrossModalFusionModule(kind, WIDTH)
    before = _margin(fusion, data)
    losses = fit_fusion(fusion, data, epochs=20)
    assert losses[-1] < losses[0] / 2
    assert _margin(fusion, data) > before + 0.02
    assert not fusion.training


def test_a_fit_gives_the_same_weights_again() -> None:
    data = _scenes()
    one, two, other = (_fitted(data, seed) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def _fitted(data: FusionData, seed: int) -> Tensor:
    torch.manual_seed(0)
    fusion = CrossModalFusionModule("film", WIDTH)
    torch.seed()  # the fit takes nothing from the state of the process
    fit_fusion(fusion, data, 2, seed)
    return fusion.out.weight


def test_images_that_the_teacher_says_a_text_describes_are_no_negatives() -> None:
    """All images share one caption, so no candidate is a negative and there is no loss."""
    data = _scenes()
    same = data._replace(texts=data.texts[:1].expand(2 * IMAGES, -1))
    assert fit_fusion(CrossModalFusionModule("film", WIDTH), same, 1) == [0]


def test_the_likest_captions_are_left_out_by_a_quantile() -> None:
    data = _scenes()
    losses = [
        fit_fusion(CrossModalFusionModule("film", WIDTH), data, 1, same_text=quantile)[0]
        for quantile in (1.0, 0.5, 0.0)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_captions_may_differ_in_number() -> None:
    data = _scenes()
    uneven = torch.cat([torch.arange(IMAGES), torch.tensor([IMAGES - 1] * IMAGES)])
    losses = fit_fusion(
        CrossModalFusionModule("film", WIDTH), data._replace(image_of_text=uneven), 1
    )
    assert losses[0] > 0


def test_every_step_is_counted() -> None:
    steps: list[int] = []
    fit_fusion(CrossModalFusionModule("film", WIDTH), _scenes(), 2, on_step=lambda: steps.append(1))
    assert len(steps) == 2 * steps_of(IMAGES) == 2 * -(-IMAGES // fusion_fit.TEXTS_A_STEP)


def test_images_without_captions_or_neighbors_are_refused(mistake) -> None:
    data, fusion = _scenes(), CrossModalFusionModule("film", WIDTH)
    with mistake("no caption", "distill.fusion_epochs"):
        fit_fusion(fusion, data._replace(image_of_text=torch.zeros(2 * IMAGES, dtype=int)), 1)
    with mistake("1 image", "distill.fusion_epochs"):
        fit_fusion(fusion, FusionData(data.dense[:1], data.embedding[:1], *data[2:]), 1)
