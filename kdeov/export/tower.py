"""The deployed student: the image tower alone, with batch norm folded into the convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdeov.models.student import VisualStudent


class ImageTower(nn.Module):
    """From images to unit index embeddings, for inference.

    Args:
        student: Its backbone and projection are copied; the index embedding needs no fusion.
    """

    def __init__(self, student: VisualStudent):
        super().__init__()
        self.backbone = copy.deepcopy(student.backbone)
        self.projection = copy.deepcopy(student.projection)
        self.eval()
        self.backbone.trunk.simplify()
        like, side = self.backbone.pixel_scale, self.backbone.strides[-1]
        self.to(like.device, like.dtype)  # merged layers may be new modules
        fold_batch_norm(self, like.new_zeros(1, 3, side, side))
        for module in self.projection.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = True
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to unit embeddings [B, D]."""
        return nn.functional.normalize(self.projection(self.backbone(images)), dim=-1)


@torch.no_grad()
def fold_batch_norm(module: nn.Module, images: Tensor | Sequence[Tensor]) -> None:
    """Folds each batch norm into the convolution before it, in place.

    In evaluation mode a batch norm is an affine map of each channel, which the convolution can do
    itself: the outputs stay the same up to rounding. A pair is folded where the norm's input was
    the very tensor that the convolution returned in a forward pass, because the order of a module's
    layers is not the order of computation (pre-activation, parallel branches).

    Args:
        module: In evaluation mode.
        images: An input of the module, for that forward pass; of a box head, feature levels.
    """
    outputs_of: dict[nn.Module, list[Tensor]] = {}
    inputs_of: dict[nn.Module, list[Tensor]] = {}

    def after(conv: nn.Module, _: object, output: Tensor) -> None:
        outputs_of.setdefault(conv, []).append(output)

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs_of.setdefault(norm, []).append(inputs[0])

    handles = [m.register_forward_hook(after) for m in module.modules() if _is_plain(m)]
    handles += [
        m.register_forward_pre_hook(before)
        for m in module.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    module(images)
    for handle in handles:
        handle.remove()
    for parent in list(module.modules()):
        for (conv_name, conv), (name, norm) in pairwise(list(parent.named_children())):
            outputs, inputs = outputs_of.get(conv, []), inputs_of.get(norm, [])
            if len(outputs) == len(inputs) == 1 and outputs[0] is inputs[0]:
                fused = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var, arg-type]
                setattr(parent, conv_name, fused)
                # timm's batch norms end with an activation
                rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())


def _is_plain(layer: nn.Module) -> bool:
    """Whether a convolution uses its weights unchanged; subclasses may standardise them first."""
    return type(layer) is nn.Conv2d
