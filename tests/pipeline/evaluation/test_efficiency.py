"""Parameters and multiply-accumulates of a student, for every kind of backbone."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdeov.export.tower import ImageTower
from kdeov.models.model import KDEOVModel
from kdeov.models.student import VisualStudent
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.detection import detection
from pipeline.evaluation.efficiency import count_macs, count_parameters, efficiency
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.export.export import export
from pipeline.training.distill import distill
from tests.helpers.backbones import FEW
from tests.helpers.box_heads import save_untrained_head


@pytest.mark.parametrize("backbone", FEW)
def test_every_convolution_and_matrix_is_counted(backbone: str) -> None:
    tower = ImageTower(VisualStudent(backbone, embed_dim=32))
    expected = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal expected
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        width = output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]
        expected += output.numel() // width * weight.numel()

    for module in tower.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    found = count_macs(tower, 64)
    if backbone == "timm:test_vit":  # 17 tokens of width 64 in 6 layers: queries, then values
        expected += 6 * 2 * 17 * 17 * 64
    assert found == expected


def test_fused_attention_is_counted() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.flatten(2).transpose(1, 2)[:, None]
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    assert count_macs(Attention(), 8) == 2 * 64 * 64 * 3


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:test_byobnet", "timm:test_vit"])
def test_a_timm_student_goes_through_all_stages(
    checkout: Layout, make_params: Callable[..., Params], backbone: str
) -> None:
    quick = {"threads": 1, "batch_size": 1, "repeats": 1, "reference_size": 32}
    params = make_params(
        distill={"backbone": backbone, "epochs": 1}, efficiency=quick,
        export={"calibration_images": 0},
    )  # fmt: skip
    distill(params, checkout)
    save_untrained_head(params, checkout)
    for stage in (export, zero_shot, retrieval, detection, efficiency):
        stage(params, checkout)
    name = RunRecord.read(checkout.student).name
    assert name.startswith(backbone.removeprefix("timm:") + "-film-")
    student = KDEOVModel.load(checkout.student, "cpu").student
    assert student.backbone.backbone_type == backbone
    measured = json.loads((checkout.metrics / "efficiency.json").read_text(encoding="utf-8"))[
        "student"
    ]
    assert measured["parameters"] == count_parameters(ImageTower(student))
    assert measured["macs"] == count_macs(ImageTower(student), params.distill.image_size)
