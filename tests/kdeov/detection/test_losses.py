"""Which anchors learn what."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kdeov.detection.boxes import paired_iou
from kdeov.detection.head import make_anchors
from kdeov.detection.losses import (
    MIN_INSPECTED,
    BoxLoss,
    BoxTargets,
    Lookalikes,
    anchor_roles,
)

STRIDES = (8, 16, 32)
ANCHORS = make_anchors([torch.zeros(1, 1, 64 // s, 64 // s) for s in STRIDES], STRIDES)
N = len(ANCHORS.points)


def predicted(half: float = 6.0) -> torch.Tensor:
    """A square box around each anchor."""
    return torch.cat([ANCHORS.points - half, ANCHORS.points + half], dim=1)[None]


def targets(boxes: list[list[float]], crowd: list[bool] | None = None) -> BoxTargets:
    count = len(boxes)
    crowds = torch.tensor([crowd or [False] * count], dtype=torch.bool).view(1, count)
    values = torch.tensor(boxes).view(1, count, 4)
    return BoxTargets(values, torch.ones(1, count, dtype=torch.bool), crowds)


NOTHING = targets([])
OBJECT = targets([[30.0, 30, 42, 42]])
EVEN = torch.full((1, N), -2.0)


def test_an_image_without_objects_gives_no_target() -> None:
    roles = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, NOTHING)
    assert not roles.positive.any()
    assert roles.negative.all()
    boxes, logits = predicted().requires_grad_(), EVEN.clone().requires_grad_()
    BoxLoss()(boxes, logits, ANCHORS, roles)["total"].backward()
    assert boxes.grad is None or not boxes.grad.any()
    assert (logits.grad > 0).all()  # every objectness falls


def test_rows_that_pad_the_boxes_are_no_objects() -> None:
    padded = BoxTargets(
        torch.cat([OBJECT.boxes, torch.zeros(1, 3, 4)], dim=1),
        torch.tensor([[True, False, False, False]]),
        torch.zeros(1, 4, dtype=torch.bool),
    )
    plain = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, OBJECT)
    for one, two in zip(anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, padded), plain,
                        strict=True):  # fmt: skip
        assert torch.equal(one, two)


def test_objectness_learns_the_overlap_of_the_predicted_box() -> None:
    roles = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, OBJECT)
    assert roles.positive.sum() >= 1
    expected = paired_iou(predicted(), OBJECT.boxes.expand(1, N, 4))
    assert torch.equal(roles.quality[roles.positive], expected[roles.positive])
    assert not roles.quality[~roles.positive].any()
    foreground = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, OBJECT, foreground=True)
    assert (foreground.quality[foreground.positive] == 1).all()


def test_an_anchor_whose_box_overlaps_an_object_is_no_background() -> None:
    roles = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, OBJECT)
    overlap = paired_iou(predicted(), OBJECT.boxes.expand(1, N, 4))
    assert (overlap[roles.negative] < 0.3).all()
    assert not (roles.negative & roles.positive).any()


def test_nothing_is_learned_inside_a_crowd() -> None:
    crowd = targets([[0.0, 0, 32, 64]], [True])
    roles = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, crowd)
    inside = (ANCHORS.points[:, 0] <= 32)[None]
    assert not roles.positive.any()
    assert not roles.negative[inside].any()
    assert roles.negative[~inside].all()


def test_regions_that_look_like_a_text_but_have_no_box_are_ignored() -> None:
    """Of the highest objectness, of which one in two looks like the text."""
    text = F.normalize(torch.tensor([[1.0, 0.0]]), dim=-1)
    logits = torch.linspace(-5, 1, N)[None]
    alike = torch.arange(N) % 2 == 0

    def embed(boxes: torch.Tensor) -> torch.Tensor:
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        anchor = (centers[:, :, None] - ANCHORS.points).abs().sum(-1).argmin(-1)
        return torch.where(alike[anchor].unsqueeze(-1), text[0], torch.tensor([0.0, 1.0]))

    lookalikes = Lookalikes(embed, text, threshold=0.9)
    plain = anchor_roles(predicted(), logits, ANCHORS, STRIDES, OBJECT)
    roles = anchor_roles(predicted(), logits, ANCHORS, STRIDES, OBJECT, lookalikes)
    assert torch.equal(roles.positive, plain.positive)  # objects of base classes are learned
    hardest = logits[0].masked_fill(~plain.negative[0], -torch.inf).topk(MIN_INSPECTED).indices
    expected = plain.negative.clone()
    expected[0, hardest[alike[hardest]]] = False
    assert torch.equal(roles.negative, expected)
    assert roles.ignored == (plain.negative & ~roles.negative).sum() > 0
    # such a region's objectness is not pushed down
    values = logits.clone().requires_grad_()
    BoxLoss()(predicted(), values, ANCHORS, roles)["quality"].backward()
    assert not values.grad[plain.negative & ~roles.negative].any()


def test_a_threshold_that_nothing_reaches_ignores_nothing() -> None:
    lookalikes = Lookalikes(lambda boxes: boxes[..., :2] * 0, torch.ones(1, 2), threshold=0.5)
    roles = anchor_roles(predicted(), EVEN, ANCHORS, STRIDES, NOTHING, lookalikes)
    assert roles.negative.all()
    assert roles.ignored == 0


def test_the_loss_falls_to_nothing_where_boxes_and_qualities_are_right() -> None:
    boxes = OBJECT.boxes.expand(1, N, 4).clone()
    roles = anchor_roles(boxes, EVEN, ANCHORS, STRIDES, OBJECT)
    sure = torch.where(roles.positive, 20.0, -20.0)
    terms = BoxLoss()(boxes, sure, ANCHORS, roles)
    assert all(abs(value) < 1e-4 for value in terms.values())
