"""The network of boxes: its grid, its size and its cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdeov.detection.head import BoxHead, make_anchors
from kdeov.models.student import VisualStudent
from kdeov.models.yolo import import_ultralytics

MAX_PARAMETERS, MAX_COST = 4e6, 1.05
REGIONS, EMBED_DIM = 300, 512


def levels(side: int = 64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 64 * 2**k, side // 8 // 2**k, side // 8 // 2**k) for k in range(3)]


def test_training_and_evaluation_have_the_same_grid() -> None:
    head = BoxHead((64, 128, 256), (8, 16, 32))
    features = levels()
    shapes = []
    for mode in (True, False):
        boxes, logits = head.train(mode)(features)
        shapes.append((boxes.shape, logits.shape))
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        points = make_anchors(features, head.strides).points
        # distances are nearly equal before training: each box is around its own location
        assert (centers - points).abs().amax() < 16
    assert shapes[0] == shapes[1] == ((2, 84, 4), (2, 84))


def test_anchors_are_the_centers_of_the_cells_of_each_level() -> None:
    anchors = make_anchors(levels(), (8, 16, 32))
    assert anchors.points[:2].tolist() == [[4, 4], [12, 4]]
    assert anchors.points[64:66].tolist() == [[8, 8], [24, 8]]
    assert anchors.points[-4:].tolist() == [[16, 16], [48, 16], [16, 48], [48, 48]]
    assert anchors.strides.unique(return_counts=True)[1].tolist() == [64, 16, 4]


def test_boxes_have_an_area_whatever_the_features_are() -> None:
    head = BoxHead((64, 128, 256), (8, 16, 32)).eval()
    boxes, _ = head([level * 100 for level in levels()])
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


@pytest.mark.parametrize("channels", [(32,), (16, 40), (512, 1024, 2048)])
def test_a_trunk_with_any_number_of_levels_and_channels_has_a_head(
    channels: tuple[int, ...],
) -> None:
    strides = (8, 16, 32)[-len(channels) :]
    features = [torch.randn(1, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    boxes, logits = BoxHead(channels, strides).eval()(features)
    count = sum((64 // s) ** 2 for s in strides)
    assert (boxes.shape, logits.shape) == ((1, count, 4), (1, count))


def test_an_open_vocabulary_costs_no_more_than_the_closed_one_of_yolov8n() -> None:
    student = VisualStudent("yolov8n", "film", EMBED_DIM).eval()
    head = BoxHead(student.backbone.channels, student.backbone.strides).eval()
    parts = [student.backbone, student.projection, head]
    assert sum(p.numel() for part in parts for p in part.parameters()) <= MAX_PARAMETERS
    pixels = torch.zeros(1, 3, 640, 640)
    boxes = torch.rand(1, REGIONS, 4).sort(dim=-1).values * 640

    def detect() -> None:
        features = student.backbone(pixels)
        head(features)
        student.projection.regions(features, boxes, student.backbone.strides)

    closed = import_ultralytics("nn.tasks").DetectionModel("yolov8n.yaml", verbose=False).eval()
    assert macs(detect) <= MAX_COST * macs(lambda: closed(pixels))


@torch.no_grad()
def macs(run) -> float:  # type: ignore[no-untyped-def]
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2
