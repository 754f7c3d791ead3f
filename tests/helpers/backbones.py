"""Backbones that tests of any backbone go through: small ones, each for a reason."""

from __future__ import annotations

SMALL = (
    "yolov8n",
    "yolov5n",
    "yolo11n",  # attention in its last layer
    "timm:mobilenetv3_small_050",  # batch norms that end with an activation
    "timm:resnet10t",
    "timm:convnext_atto",  # layer norms alone
    "timm:edgenext_xx_small",
    "timm:efficientvit_b0",
    "timm:repvit_m0_9",  # parallel branches that merge
    "timm:test_mambaout",  # channels last
    "timm:test_vit",  # one level, a fixed size by default
    "timm:shvit_s1",  # strides 16, 32 and 64
)
FEW = ("yolov8n", "yolov5s", "timm:mobilenetv3_small_050", "timm:test_vit")
