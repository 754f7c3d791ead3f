"""The modules that are exported: from pixels or tokens, as callers hold them, to embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.export.tower import ImageTower
from kdeov.models.student import VisualStudent
from kdeov.text.base import TextTower


class ImageGraph(nn.Module):
    """From pixels to unit embeddings. The scaling of pixels to [0, 1], their normalization and the
    backbone's own conversion are one affine map, and no batch norm is left.

    Args:
        student: It is copied.
        transform: The normalization of its input.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, student: VisualStudent, transform: ImageTransform) -> None:
        super().__init__()
        tower = ImageTower(student).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.trunk = tower.backbone.trunk
        self.projection = tower.projection
        scale, shift = pixel_map(tower.backbone.pixel_scale, tower.backbone.pixel_shift, transform)
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())
        self.eval().requires_grad_(False)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Pixels uint8 [B, 3, H, W], H and W multiples of the last stride, to feature levels."""
        return self.trunk(pixels.float() * self.scale + self.shift)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [B, 3, H, W] to unit embeddings [B, D]."""
        return F.normalize(self.projection(self.features(pixels)), dim=-1)


class DenseGraph(ImageGraph):
    """From pixels and class embeddings to embeddings, dense maps, scores and heat maps."""

    def __init__(self, student: VisualStudent, transform: ImageTransform) -> None:
        super().__init__(student, transform)
        self.stride = student.backbone.strides[0]

    def forward(  # type: ignore[override]
        self, pixels: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeds and compares.

        Args:
            pixels: uint8 [B, 3, H, W].
            classes: [K, D], of any length.

        Returns:
            Unit embeddings [B, D]; dense maps [B, D, H/stride, W/stride], not normalized; cosines
            [B, K]; cosines of every pixel [B, K, H, W].
        """
        features = self.features(pixels)
        classes = F.normalize(classes, dim=-1)
        embedding = F.normalize(self.projection(features), dim=-1)
        dense = self.projection.dense(features)
        maps = torch.einsum("bdhw,kd->bkhw", F.normalize(dense, dim=1), classes)
        heatmap = F.interpolate(
            maps, scale_factor=self.stride, mode="bilinear", align_corners=False
        )
        return embedding, dense, embedding @ classes.T, heatmap


class TextGraph(nn.Module):
    """From tokens to unit embeddings.

    Args:
        encoder: A text tower, in evaluation mode.
    """

    def __init__(self, encoder: TextTower) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [N, context] to unit embeddings [N, D]."""
        return F.normalize(self.encoder.encode_tokens(tokens), dim=-1)


def pixel_map(scale: Tensor, shift: Tensor, transform: ImageTransform) -> tuple[Tensor, Tensor]:
    """The affine map from pixels of 0 to 255 to what a backbone's network takes.

    Args:
        scale: [3, 1, 1]; of the backbone, from normalized pixels.
        shift: [3, 1, 1]; the same.
        transform: The normalization.

    Returns:
        Factor and summand [3, 1, 1], in float64.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=scale.device).view(3, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return scale.double() / (255 * std), shift.double() - scale.double() * mean / std
