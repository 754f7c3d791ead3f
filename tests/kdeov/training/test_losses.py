"""Losses on batches small enough to compute by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdeov import CrossModalAlignmentLoss, DistillationLoss, FeatureAlignmentLoss
from kdeov.training.losses import NEEDS_TEXT, TERMS, AffinityDistillationLoss

EYE = torch.eye(2)
SWAPPED = EYE.flip(0)
EVERY = dict.fromkeys(TERMS, 1.0)
SIGMOID = 1 / (1 + math.exp(-1))


def _batch(rows: int = 4, width: int = 6, **options) -> list[Tensor]:
    """Student images, teacher images and teacher texts."""
    return list(torch.randn(3, rows, width, **options).unbind())


@pytest.mark.parametrize(("kind", "expected"), [("cosine", (0 + 1) / 2), ("l2", (0 + 2) / 2)])
def test_feature_loss_by_hand(kind, expected):
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0], [5.0, 0.0]])  # one embedding alike, one at right angles
    assert DistillationLoss(kind)(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.02])
def test_contrastive_loss_by_hand(temperature):
    loss, scale = CrossModalAlignmentLoss(temperature), 1 / temperature
    assert loss(EYE, EYE).item() == pytest.approx(math.log1p(math.exp(-scale)), abs=1e-6)
    assert loss(EYE, SWAPPED).item() == pytest.approx(math.log1p(math.exp(scale)), rel=1e-5)
    assert loss(torch.ones(2, 2), EYE).item() == pytest.approx(math.log(2), rel=1e-5)


def test_contrastive_loss_counts_both_directions():
    # Both images show the first text. Image to text: softplus(-1) and softplus(1); each text
    # finds the two images equally likely.
    loss = CrossModalAlignmentLoss(temperature=1)(EYE[[0, 0]], EYE)
    images = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    assert loss.item() == pytest.approx((images + math.log(2)) / 2)


def test_temperature_is_learnt_and_kept_at_one_hundredth_or_more():
    coldest, capped = CrossModalAlignmentLoss(0.01), CrossModalAlignmentLoss(1e-6)
    student, _, texts = _batch()
    torch.testing.assert_close(capped(student, texts), coldest(student, texts))
    warm = CrossModalAlignmentLoss(0.07)
    warm(student, texts).backward()
    assert warm.log_scale.grad.abs() > 0


def test_affinity_loss_by_hand():
    # KL((1-p, p) || (p, 1-p)) = (2p - 1) log(p / (1 - p)) = 2p - 1 for p = sigmoid(1)
    loss = AffinityDistillationLoss(temperature=1)(EYE, SWAPPED, EYE)
    assert loss.item() == pytest.approx(2 * SIGMOID - 1)


def test_affinity_loss_counts_both_directions():
    # Student images are alike: rows (p, 1-p) twice, columns (1/2, 1/2). The teacher's are EYE.
    loss = AffinityDistillationLoss(temperature=1)(EYE[[0, 0]], EYE, EYE)
    p, q = SIGMOID, 1 - SIGMOID
    rows = (0 + (p - q) * math.log(p / q)) / 2
    columns = p * math.log(2 * p) + q * math.log(2 * q)
    assert loss.item() == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_relation_loss_compares_images_with_images():
    student, teacher, texts = _batch()
    terms = FeatureAlignmentLoss({"relation": 1.0})(student, teacher)
    affinity = AffinityDistillationLoss()
    torch.testing.assert_close(terms["relation"], affinity(student, teacher, teacher))
    assert terms["relation"] != affinity(student, teacher, texts)


def test_rows_of_a_batch_share_its_loss_evenly():
    batch, loss = _batch(), FeatureAlignmentLoss(EVERY)
    whole = loss(*batch)
    halves = [loss(*batch, local_rows=rows) for rows in (slice(0, 2), slice(2, 4))]
    for name, value in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, value)


def test_interactive_loss_contrasts_images_with_images():
    student, teacher, texts = _batch()
    terms = FeatureAlignmentLoss({"interactive": 1.0})(student, teacher)
    torch.testing.assert_close(terms["interactive"], CrossModalAlignmentLoss()(student, teacher))
    assert terms["interactive"] != CrossModalAlignmentLoss()(student, texts)


@pytest.mark.parametrize(
    "loss", [DistillationLoss("cosine"), DistillationLoss("l2"), AffinityDistillationLoss()]
)
def test_equal_embeddings_cost_nothing(loss):
    student, _, texts = _batch()
    inputs = (texts,) if isinstance(loss, AffinityDistillationLoss) else ()
    assert loss(student, 3 * student, *inputs).item() == pytest.approx(0, abs=1e-6)
    assert loss(student, student.flip(0), *inputs).item() > 0.1


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_lengths_of_embeddings_do_not_matter(kind):
    loss, batch = FeatureAlignmentLoss(EVERY, kind), _batch()
    longer = loss(*(scale * part for scale, part in zip((2, 3, 4), batch, strict=True)))
    for name, value in loss(*batch).items():
        torch.testing.assert_close(longer[name], value)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_gradients_never_reach_the_teacher(term, kind):
    student, teacher, texts = batch = _batch(requires_grad=True)
    for part in batch:
        part.retain_grad()
    FeatureAlignmentLoss({term: 1.0}, kind)(*batch)["total"].backward()
    assert teacher.grad is None and texts.grad is None
    assert student.grad.abs().sum() > 0


def test_total_is_the_weighted_sum_of_the_named_terms():
    weights = dict(zip(TERMS, (2.0, 0.5, 1.5, 0.25, 3.0), strict=True))
    terms = FeatureAlignmentLoss(weights)(*_batch())
    assert terms.keys() == {*TERMS, "total"}
    torch.testing.assert_close(terms["total"], sum(weights[name] * terms[name] for name in TERMS))


def test_terms_of_weight_zero_are_left_out():
    loss = FeatureAlignmentLoss({"feature": 1.0, "contrastive": 0.0})
    assert loss(*_batch()[:2]).keys() == {"feature", "total"}
    assert list(loss.parameters()) == []  # DDP wants every parameter in every step


def test_feature_matching_is_the_default():
    student, teacher, _ = _batch()
    terms = FeatureAlignmentLoss()(student, teacher)
    torch.testing.assert_close(terms["total"], DistillationLoss("cosine")(student, teacher))


def test_unknown_terms_and_kinds_are_reported_with_the_known_ones(mistake):
    with mistake("'featur'", *TERMS):
        FeatureAlignmentLoss({"feature": 1.0, "featur": 1.0})
    for loss in (DistillationLoss, lambda kind: FeatureAlignmentLoss(kind=kind)):
        with mistake("'l1'", "cosine", "l2"):
            loss("l1")


@pytest.mark.parametrize("weights", [{}, {"feature": 0.0, "affinity": 0}], ids=str)
def test_all_zero_weights_are_refused(mistake, weights):
    with mistake("weight is 0", *TERMS):
        FeatureAlignmentLoss(weights)


@pytest.mark.parametrize("term", TERMS)
def test_terms_that_need_captions_say_so(mistake, term):
    loss, (student, teacher, _) = FeatureAlignmentLoss({term: 1.0}), _batch()
    if term in NEEDS_TEXT:
        with mistake("captions"):
            loss(student, teacher)
    else:
        assert loss(student, teacher)["total"].isfinite()


@pytest.mark.parametrize(
    ("weights", "word"),
    [([1], "[1]"), ({"feature": "a"}, "'a'"), ({"feature": None}, "None"),
     ({"relation": float("nan")}, "nan"), ({"relation": -1.0}, "negative")],
)  # fmt: skip
def test_weights_that_are_no_numbers_are_refused(mistake, weights, word):
    with mistake(word):
        FeatureAlignmentLoss(weights)
