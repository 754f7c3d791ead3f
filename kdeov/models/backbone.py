"""The student's backbone: of a YOLO or from timm, with up to three feature levels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.data.transform import CLIP_MEAN, CLIP_STD
from kdeov.errors import ConfigError
from kdeov.models.timm_trunk import PREFIX, TimmTrunk
from kdeov.models.trunk import Trunk
from kdeov.models.yolo import YOLOS, YoloTrunk
from kdeov.weights.folder import user_path


class LightweightVisualBackbone(nn.Module):
    """A network from images of any size to feature levels.

    Its input is normalised with CLIP's statistics. Where pretrained weights expect others, the
    backbone converts the pixels exactly.

    Args:
        backbone_type: `yolov5`, `yolov8` or `yolo11` with a size n, s, m, l or x; or `timm:` and a
            name of timm.
        weights: Pretrained weights: a state dict (safetensors or `.pt`) of the whole network, or
            an ultralytics `.pt`; random weights where None.

    Attributes:
        channels: Channels of the feature levels, finest first.
        strides: Strides of the feature levels, each twice the one before; (8, 16, 32) for most.
        frozen: Whether `freeze` was called.
        fixed_statistics: Whether `fix_statistics` was called.
        folded: Whether the weights came with batch norm folded into the convolutions.
        pixel_scale: [3, 1, 1]; the network sees `pixel_scale * images + pixel_shift`.
        pixel_shift: [3, 1, 1].

    Raises:
        ConfigError: Unknown name.
        DataError: Weights that do not fit.
    """

    folded: Tensor
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, backbone_type: str = "yolov8n", weights: str | Path | None = None):
        super().__init__()
        self.backbone_type = backbone_type
        self.trunk = _build_trunk(backbone_type)
        self.channels, self.strides = self.trunk.channels, self.trunk.strides
        self.frozen = self.fixed_statistics = False
        self.register_buffer("folded", torch.tensor(False))
        self.register_buffer("pixel_scale", torch.ones(3, 1, 1))
        self.register_buffer("pixel_shift", torch.zeros(3, 1, 1))
        self.register_load_state_dict_post_hook(_fix_folded)
        if weights is not None:
            self.trunk.load(user_path(weights))
            self._convert_pixels()
            self.folded.fill_(_is_folded(self.trunk))
            _fix_folded(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images of any size.

        Args:
            images: [B, 3, H, W]; the right and lower edges are repeated up to a multiple of the
                last stride.

        Returns:
            A map [B, C, H/stride, W/stride] for each level.
        """
        pixels = torch.addcmul(self.pixel_shift, images, self.pixel_scale)
        return self.trunk(pad_to_stride(pixels, self.strides[-1]))

    def freeze(self) -> LightweightVisualBackbone:
        """Fixes weights and statistics for good, whatever `train` sets."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def fix_statistics(self) -> LightweightVisualBackbone:
        """Fixes the statistics of batch norm for good; weights, scales and shifts train on."""
        self.fixed_statistics = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> LightweightVisualBackbone:
        """Sets the mode. A frozen backbone stays in evaluation mode, and so does batch norm that is
        fixed or was folded: batch statistics would undo the pretraining.
        """
        super().train(mode and not self.frozen)
        if self.folded or self.fixed_statistics:
            for norm in _norms(self):
                norm.eval()
        return self

    def _convert_pixels(self) -> None:
        """Sets scale and shift from (p - CLIP's mean) / CLIP's std to the (p - mean) / std of the
        weights.
        """
        clip_mean, clip_std, mean, std = (
            torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
            for values in (CLIP_MEAN, CLIP_STD, self.trunk.mean, self.trunk.std)
        )
        self.pixel_scale.copy_(clip_std / std)
        self.pixel_shift.copy_((clip_mean - mean) / std)


def pad_to_stride(images: Tensor, stride: int) -> Tensor:
    """Repeats the right and lower edges until both sides are multiples of `stride`."""
    down, right = -images.shape[-2] % stride, -images.shape[-1] % stride
    return F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images


def _build_trunk(name: str) -> Trunk:
    if isinstance(name, str) and name.startswith(PREFIX):
        return TimmTrunk(name)
    if isinstance(name, str) and name in YOLOS:
        return YoloTrunk(name)
    raise ConfigError(
        f"backbone {name!r} is unknown; choose one of {', '.join(YOLOS)}, or {PREFIX} and a name "
        "of timm.list_models()"
    )


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def _is_folded(module: nn.Module) -> bool:
    """Whether batch norm was folded into the convolutions.

    Then its mean is 0, its variance 1, its scale sqrt(1 + eps), and its shifts are the
    convolutions' biases; the shifts of fresh batch norms are 0.
    """
    norms = [norm for norm in _norms(module) if norm.affine and norm.track_running_stats]
    return any(norm.bias.any() for norm in norms) and all(
        torch.equal(norm.running_mean, torch.zeros_like(norm.weight))  # type: ignore[arg-type]
        and torch.equal(norm.running_var, torch.ones_like(norm.weight))  # type: ignore[arg-type]
        and torch.allclose(
            norm.weight, torch.full_like(norm.weight, (1 + norm.eps) ** 0.5), atol=1e-3
        )
        for norm in norms
    )


def _fix_folded(backbone: LightweightVisualBackbone, _: object = None) -> None:
    """Turns scale and shift of folded batch norms into buffers, so that no optimizer and no
    `requires_grad_` trains them. Names in the state dict stay.
    """
    if not backbone.folded:
        return
    for norm in _norms(backbone):
        for name in ("weight", "bias"):
            value = getattr(norm, name).detach()
            delattr(norm, name)
            norm.register_buffer(name, value)
        norm.eval()
