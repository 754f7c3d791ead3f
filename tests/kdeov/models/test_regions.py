"""Region embeddings: exact means of the dense map, whose identities hold for any box."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from kdeov.export.onnx import OPSET
from kdeov.models.regions import region_means
from kdeov.models.student import VisualStudent
from tests.helpers.backbones import SMALL

TOLERANCE = 1e-5
SIZES = ((96, 96), (64, 128), (97, 130), (45, 71))


@pytest.fixture(params=SMALL)
def any_student(request: pytest.FixtureRequest, student_of) -> VisualStudent:
    return student_of(request.param).eval()


@pytest.fixture(scope="module")
def student(student_of) -> VisualStudent:
    return student_of("yolov8n").eval()


def images(height: int, width: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(count, 3, height, width, generator=generator)


def padded(student: VisualStudent, height: int, width: int) -> tuple[int, int]:
    """Height and width of the input that the backbone pads to."""
    stride = student.backbone.strides[-1]
    return height + -height % stride, width + -width % stride


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


@torch.no_grad()
def test_the_region_of_the_whole_image_is_its_embedding(any_student: VisualStudent) -> None:
    height, width = 97, 130
    pixels = images(height, width)
    whole = torch.tensor([0.0, 0, width, height]).expand(2, 1, 4)
    regions = any_student.encode_regions(pixels, whole)[:, 0]
    assert apart(regions, any_student(pixels)) < TOLERANCE


@torch.no_grad()
def test_boxes_of_whole_cells_are_means_of_the_dense_map(any_student: VisualStudent) -> None:
    pixels, stride = images(64, 135), any_student.backbone.strides[0]
    dense = any_student.dense(pixels)
    rows, columns = dense.shape[-2] * 2 // 3, dense.shape[-1] // 2
    places = [(0, 0, 1, 1), (0, 0, columns, rows), (columns // 2, rows // 2, columns, rows)]
    places += [(0, rows - 1, 1, rows)]
    boxes = torch.tensor(places, dtype=torch.float32) * stride
    found = any_student.encode_regions(pixels, boxes.expand(2, -1, -1))
    for number, (left, top, right, bottom) in enumerate(places):
        expected = dense[..., top:bottom, left:right].mean(dim=(2, 3))
        assert apart(found[:, number], expected) < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    xs=st.lists(st.floats(0.02, 0.98), max_size=3),
    ys=st.lists(st.floats(0.02, 0.98), max_size=3),
)
@torch.no_grad()
def test_the_parts_of_any_partition_make_up_the_image(
    student: VisualStudent, size: tuple[int, int], xs: list[float], ys: list[float]
) -> None:
    height, width = size
    pixels, (down, right) = images(height, width), padded(student, height, width)
    rows, columns = _cuts(ys, height), _cuts(xs, width)
    boxes = torch.tensor(
        [(x, y, x2, y2) for (y, y2), (x, x2) in product(pairwise(rows), pairwise(columns))]
    )
    found = student.encode_regions(pixels, boxes.expand(2, -1, -1))
    areas = torch.tensor(
        [
            ((right if x2 == width else x2) - x) * ((down if y2 == height else y2) - y)
            for x, y, x2, y2 in boxes.tolist()
        ]
    )
    mean = (found * areas[:, None]).sum(dim=1) / areas.sum()
    assert apart(mean, student(pixels)) < TOLERANCE


def _cuts(shares: list[float], side: int) -> list[float]:
    """Beginnings and ends of parts that are at least 3 pixels wide, more than `MIN_CELLS` ask."""
    cuts = [0.0]
    for share in sorted(shares):
        if share * side - cuts[-1] >= 3 and side - share * side >= 3:
            cuts.append(share * side)
    return [*cuts, float(side)]


@settings(max_examples=50, deadline=None)
@given(
    box=st.tuples(st.floats(0, 44), st.floats(0, 28), st.floats(4, 20), st.floats(4, 20)),
    seed=st.integers(0, 99),
)
def test_a_fractional_box_weighs_cells_by_the_area_that_it_covers(
    box: tuple[float, float, float, float], seed: int
) -> None:
    left, top, wide, high = box
    right, bottom = min(left + wide, 64), min(top + high, 48)
    maps = [
        torch.randn(1, 3, 48 // stride, 64 // stride, generator=torch.Generator().manual_seed(seed))
        for stride in (8, 16)
    ]
    found = region_means(maps, torch.tensor([[[left, top, right, bottom]]]), (8, 16))[0, 0]
    expected = []
    for stride, values in zip((8, 16), maps, strict=True):
        x = _overlaps(left / stride, right / stride, values.shape[3])
        y = _overlaps(top / stride, bottom / stride, values.shape[2])
        expected.append((values[0] * y[:, None] * x).sum(dim=(1, 2)) / (y.sum() * x.sum()))
    assert apart(found, torch.cat(expected)) < TOLERANCE


def _overlaps(low: float, high: float, cells: int) -> Tensor:
    return torch.tensor([max(0.0, min(high, c + 1) - max(low, c)) for c in range(cells)])


def test_a_box_smaller_than_a_cell_is_that_cell() -> None:
    values = torch.arange(12.0).view(1, 1, 3, 4)
    tiny = torch.tensor(
        [[[17.0, 9.0, 18.0, 10.0], [0.0, 0.0, 1e-6, 1e-6], [31.9, 23.9, 32.0, 24.0]]]
    )
    assert region_means([values], tiny, (8,))[0, :, 0].tolist() == pytest.approx(
        [6, 0, 11], abs=1e-5
    )


def test_half_precision_inside_autocast_keeps_the_mean() -> None:
    values = 100 + torch.randn(1, 4, 40, 40)
    boxes = torch.tensor([[[0.0, 0, 320, 320], [40, 80, 56, 96]]])
    with torch.autocast("cpu", torch.bfloat16):
        found = region_means([values], boxes, (8,))[0]
    expected = torch.stack([values[0].mean((1, 2)), values[0, :, 10:12, 5:7].mean((1, 2))])
    assert apart(found, expected) < 1e-4


def test_gradients_flow_to_features_and_boxes() -> None:
    maps = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[1.3, 2.2, 9.6, 11.1]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: region_means([x], b, (4,)), (maps, boxes))


@pytest.mark.slow
def test_the_exported_graph_takes_any_number_of_boxes(student: VisualStudent) -> None:
    import numpy as np
    import onnxruntime

    class Regions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def forward(self, pixels: Tensor, boxes: Tensor) -> Tensor:
            return self.student.encode_regions(pixels, boxes)

    module, pixels = Regions().eval(), images(72, 96, 1)
    axes = {1: torch.export.Dim("boxes", min=1, max=4096)}
    with torch.no_grad():
        program = torch.onnx.export(
            module, (pixels, torch.tensor([[[8.0, 8, 40, 40], [0, 0, 96, 72]]])),
            dynamo=True, opset_version=OPSET, external_data=False, input_names=["pixels", "boxes"],
            output_names=["regions"], dynamic_shapes=({}, axes), verbose=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    rng = np.random.default_rng(0)
    for count in (1, 3, 50):
        low = rng.uniform(0, 60, (1, count, 2))
        boxes = np.concatenate([low, low + rng.uniform(0.5, 36, low.shape)], axis=2)
        boxes = np.minimum(boxes, [96, 72, 96, 72]).astype(np.float32)
        (found,) = session.run(None, {"pixels": pixels.numpy(), "boxes": boxes})
        with torch.no_grad():
            expected = module(pixels, torch.from_numpy(boxes))
        assert found.shape == (1, count, 32)
        assert apart(torch.from_numpy(found), expected) < TOLERANCE


def test_the_public_model_takes_boxes_of_images_as_given(model_of) -> None:
    model = model_of().eval()
    image = Image.effect_noise((128, 64), 90).convert("RGB")  # the square is x 32 to 96
    with torch.no_grad():
        whole = model.encode_regions(image, [[0, 0, 128, 64], [32, 0, 96, 64]])[0]
        assert apart(whole, model.encode_image(image).expand(2, -1)) < TOLERANCE
        half = model.encode_regions([image, image], [[[32, 0, 64, 64]]] * 2, normalize=False)
        side = model.transform.size
        pixels = model.preprocess([image, image])
        expected = model.student.encode_regions(
            pixels, torch.tensor([[[0.0, 0, side / 2, side]]]).expand(2, 1, 4)
        )
    assert half.shape == (2, 1, model.embed_dim) and apart(half, expected) < TOLERANCE
