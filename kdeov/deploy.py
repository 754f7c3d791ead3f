"""A student as it is deployed: picture tower alone, batch norm folded into the convolutions."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdeov.student import VisualStudent


class ImageTower(nn.Module):
    """Picture in, unit index vector out, for inference; the student itself stays as it is.

    Args:
        student: Its backbone and projection are copied; its fusion is no part of the index vector.
    """

    def __init__(self, student: VisualStudent):
        super().__init__()
        self.backbone = copy.deepcopy(student.backbone)
        self.projection = copy.deepcopy(student.projection)
        self.requires_grad_(False)
        self.eval()
        fold_batch_norm(self)
        for module in self.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to unit vectors [B, D]."""
        return nn.functional.normalize(self.projection(self.backbone(images)), dim=-1)


def fold_batch_norm(module: nn.Module) -> None:
    """Folds each batch norm into the convolution that stands before it, in place.

    In evaluation mode a batch norm is an affine map of each channel, which the convolution can do
    itself: the outputs stay the same up to rounding.
    """
    for parent in module.modules():
        previous: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
