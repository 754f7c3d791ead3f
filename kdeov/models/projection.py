"""From backbone features into the teacher's embedding space, location by location."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.models.regions import region_means

COARSE_SIDE = 4  # re-ranking gains more from 4 x 4 locations than from 2 x 2


class ProjectionNetwork(nn.Module):
    """A pointwise layer per feature level, then one linear map of all levels into the embedding
    space.

    The linear map commutes with the mean over locations. So the image embedding costs a single
    matrix-vector product after pooling, and the same map applied before pooling gives a dense map
    at the resolution of P3 whose mean is that embedding (in the manner of F-VLM, Kuo et al., 2023,
    arXiv:2209.15639).

    Args:
        in_channels: Channels of the feature levels, finest first; each level has half the sides of
            the one before.
        embed_dim: Width of the embedding space, D.
        widening: Hidden channels per input channel.
    """

    def __init__(self, in_channels: Sequence[int], embed_dim: int = 512, widening: int = 2):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c * widening, 1, bias=False), nn.BatchNorm2d(c * widening), nn.SiLU()
            )
            for c in in_channels
        )
        self.linear = nn.Linear(sum(in_channels) * widening, embed_dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature levels [B, C, h, w] to the image embedding [B, D], not normalised."""
        return self.linear(self.pooled(features))

    def pooled(self, features: Sequence[Tensor]) -> Tensor:
        """The input of the linear map: hidden features [B, H], averaged over locations."""
        return self._pool(self.hidden(features))

    def dense(self, features: Sequence[Tensor]) -> Tensor:
        """Feature levels to a dense map [B, D, h, w] at the resolution of the finest level."""
        size = features[0].shape[-2:]
        # nearest repeats every value equally often, which keeps the mean
        return self._map([F.interpolate(x, size, mode="nearest") for x in self.hidden(features)])

    def with_dense(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The image embedding, and the coarse dense map (see `coarse_map_of`)."""
        hidden = self.hidden(features)
        return self.embedding_of(hidden), self.coarse_map_of(hidden)

    def regions(self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]) -> Tensor:
        """Embeddings [B, R, D] of boxes, not normalised: the means of the dense map over them.

        Args:
            features: Feature levels [B, C, h, w].
            boxes: [B, R, 4], left, top, right and bottom in pixels of the padded input.
            strides: Strides of the levels.
        """
        return self.regions_of(self.hidden(features), boxes, strides)

    def hidden(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The hidden features [B, H, h, w] of each level, which all outputs are made from."""
        return [level(x) for level, x in zip(self.levels, features, strict=True)]

    def embedding_of(self, hidden: Sequence[Tensor]) -> Tensor:
        """`forward` from hidden features."""
        return self.linear(self._pool(hidden))

    def coarse_map_of(self, hidden: Sequence[Tensor]) -> Tensor:
        """The dense map [B, D, h, w] on the grid of the coarsest level that has `COARSE_SIDE`
        locations a side, or else of the finest level; its mean is the image embedding.

        For strides of 8, 16 and 32 that is 4 x 4 for 64 pixels and 7 x 7 for 224.
        """
        sizes = [(x.shape[-2], x.shape[-1]) for x in hidden]
        size = next((s for s in reversed(sizes) if min(s) >= COARSE_SIDE), sizes[0])
        # finer levels are averaged, and each value of coarser ones is repeated
        return self._map([F.adaptive_avg_pool2d(x, size) for x in hidden])

    def regions_of(self, hidden: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]) -> Tensor:
        """`regions` from hidden features."""
        return self.linear(region_means(hidden, boxes, strides))

    def _pool(self, hidden: Sequence[Tensor]) -> Tensor:
        if self.training:
            # Gradients with channels last, as batch norm has them: it takes ten times as long on
            # others. An export is simpler without.
            return torch.cat([x.permute(0, 2, 3, 1).mean(dim=(1, 2)) for x in hidden], dim=1)
        return torch.cat([x.mean(dim=(2, 3)) for x in hidden], dim=1)

    def _map(self, hidden: Sequence[Tensor]) -> Tensor:
        weight = self.linear.weight[..., None, None]
        return F.conv2d(torch.cat(list(hidden), dim=1), weight, self.linear.bias)
