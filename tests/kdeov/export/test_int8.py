"""The quantized file: small, and as often right as it says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdeov.export.images import smooth_pixels, unit_rows
from kdeov.export.int8 import calibration_pixels, embed, write_int8
from kdeov.export.onnx import Session, pixel_axes, to_onnx
from tests.helpers.exported import small_images


class Tiny(nn.Module):
    """Three layers, whose weights ask for different numbers of bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
        self.linear = nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.second(F.silu(self.first(pixels.float() / 255))))
        return F.normalize(self.linear(x.mean(dim=(2, 3))), dim=-1)


@pytest.fixture(scope="module")
def tiny() -> bytes:
    torch.manual_seed(0)
    pixels = {"pixels": torch.zeros(2, 3, 64, 96, dtype=torch.uint8)}
    return to_onnx(Tiny().eval(), pixels, ["embedding"], [pixel_axes(32)], "image.onnx")


def layers_in_float32(model: bytes) -> int:
    """Convolutions and matrix products whose weights are float32."""
    graph = onnx.load_from_string(model).graph
    plain = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return sum(n.op_type in ("Conv", "Gemm") and n.input[1] in plain for n in graph.node)


def test_weights_take_a_quarter_of_the_bytes(timm):
    assert len(timm.read("image.int8.onnx")) < 0.3 * len(timm.read("image.onnx"))
    assert timm.card.int8["float32_layers"] == []
    assert layers_in_float32(timm.read("image.int8.onnx")) == 0


def test_the_answers_agree_as_often_as_the_card_says(tiny, tmp_path):
    classes = unit_rows(5, 8)
    images = small_images(24, seed=3)
    quantized = write_int8(tmp_path, tiny, images, classes)
    answers = [
        (embed(Session(model), images[1::2]) @ classes.T).argmax(axis=1)
        for model in (tiny, quantized.model)
    ]
    assert quantized.card["agreement"] == round(float((answers[0] == answers[1]).mean()), 4) >= 0.97
    assert quantized.card["agreement_of"] == "top-1 class"
    assert quantized.card["calibration"]["images"] == quantized.card["images"] == 12


def test_without_classes_the_nearest_images_are_compared(timm):
    assert timm.card.int8["agreement_of"] == "nearest image"
    assert timm.card.int8["agreement"] >= 0.97


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 96, 160)])
def test_it_takes_images_of_every_size(timm, shape):
    pixels = smooth_pixels(*shape, seed=2)
    found, expected = (
        embed(Session(timm.read(name)), pixels) for name in ("image.int8.onnx", "image.onnx")
    )
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * expected).sum(axis=1).min() > 0.9


def test_times_of_this_machine_stand_apart(timm):
    measured = timm.card.int8["measured"]
    assert measured["int8_per_float32"] == pytest.approx(
        measured["int8_ms"] / measured["float32_ms"], abs=0.02
    )


def test_layers_that_do_harm_are_float32_again_and_named(tiny, tmp_path):
    images = small_images(24)
    # all images are nearly the same one, so that the nearest other one depends on every digit
    images = images[:1] // 2 + images // 8
    strict = write_int8(tmp_path, tiny, images, None, min_agreement=1.0)
    returned = strict.card["float32_layers"]
    assert returned and set(returned) <= {"first", "second", "linear"}
    assert layers_in_float32(strict.model) == len(returned)
    assert strict.card["operators"] == ["Conv", "Gemm", "MatMul"]
    assert strict.card["agreement"] == 1.0


def test_a_bar_that_float32_itself_misses_is_an_error(tiny, tmp_path, mistake):
    with mistake("image.int8.onnx", "calibration images"):
        write_int8(tmp_path, tiny, small_images(4), None, min_agreement=1.1)
    assert list(tmp_path.iterdir()) == []


def test_edges_are_repeated_up_to_the_stride():
    images = small_images(2)[..., :50]
    padded = calibration_pixels(images, 32)
    assert padded.shape == (2, 3, 64, 64)
    assert (padded[..., :50] == images).all() and (padded[..., 50:] == images[..., 49:]).all()
