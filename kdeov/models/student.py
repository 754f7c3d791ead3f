"""The trained part of the model: from images to embeddings and dense maps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import ConfigError
from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.fusion import CrossModalFusionModule, fusion_scores
from kdeov.models.projection import ProjectionNetwork
from kdeov.models.regions import extend_to_padding
from kdeov.weights.state_dict import PLAIN, StateDict, plain_name


class StudentOutput(NamedTuple):
    """The embeddings and dense maps of a batch.

    Attributes:
        embedding: [B, D], not normalised; the mean of `dense` over locations.
        dense: [B, D, h, w].
    """

    embedding: Tensor
    dense: Tensor


class VisualStudent(nn.Module):
    """Backbone, projection and fusion.

    Args:
        backbone_type: See `LightweightVisualBackbone`.
        fusion_type: See `CrossModalFusionModule`.
        embed_dim: Width of the teacher's embedding space, D.
        backbone_weights: Pretrained weights of the backbone, or None.
    """

    def __init__(
        self,
        backbone_type: str = "yolov8n",
        fusion_type: str = "film",
        embed_dim: int = 512,
        backbone_weights: str | Path | None = None,
    ):
        super().__init__()
        self.backbone = LightweightVisualBackbone(backbone_type, backbone_weights)
        self.projection = ProjectionNetwork(self.backbone.channels, embed_dim)
        self.fusion = CrossModalFusionModule(fusion_type, embed_dim)
        self.embed_dim = embed_dim

    def plain_state(self) -> StateDict:
        """The tensors by the names that a new student has, with which they can be loaded.

        Raises:
            ConfigError: A module holds others, as pruning and parametrizations make them, or is
                wrapped.
        """
        state = {plain_name(name): value for name, value in self.state_dict().items()}
        try:
            kinds = self.backbone.backbone_type, self.fusion.fusion_type
        except AttributeError as error:
            raise ConfigError(f"the student's backbone or fusion is wrapped; {PLAIN}") from error
        with torch.device("meta"):
            known = VisualStudent(*kinds, self.embed_dim).state_dict()
        others = state.keys() ^ known.keys()
        if wrong := sorted(others or {n for n in known if state[n].shape != known[n].shape}):
            raise ConfigError(
                f"the student has other tensors than one that is loaded, such as {wrong[0]}; "
                f"{PLAIN}"
            )
        return state

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to embeddings [B, D], not normalised."""
        return self.projection(self.backbone(images))

    def dense(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to dense maps [B, D, H/stride, W/stride] at the stride of
        the finest level: 8 for most backbones.
        """
        return self.projection.dense(self.backbone(images))

    def with_dense(self, images: Tensor) -> StudentOutput:
        """Both, from one pass; the dense map is on a coarse grid, of at least 4 x 4 locations
        where a level has as many.
        """
        features = self.backbone(images)
        return StudentOutput(*self.projection.with_dense(features))

    def encode_regions(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Embeddings [B, R, D] of regions, not normalised: the mean of the dense map over each box.

        The box of the whole image gives the image embedding, and so does the mean over the parts
        of any partition, weighted by their areas. Images whose sides are no multiples of the last
        stride are padded with their right and lower edges; there, boxes that end at such an edge
        include the repeated pixels, in the areas of a partition too.

        Args:
            images: [B, 3, H, W], normalised pixels.
            boxes: [B, R, 4], left, top, right and bottom in pixels of `images`.
        """
        boxes = self.boxes_of_padded(boxes, images)
        return self.projection.regions(self.backbone(images), boxes, self.backbone.strides)

    def boxes_of_padded(self, boxes: Tensor, images: Tensor) -> Tensor:
        """Boxes [B, R, 4] of images in pixels of the input that the backbone pads them to."""
        height, width = images.shape[-2:]
        stride = self.backbone.strides[-1]
        padded = (width + -width % stride, height + -height % stride)
        return extend_to_padding(boxes, (width, height), padded)

    def heatmap(self, images: Tensor, embeddings: Tensor) -> Tensor:
        """Cosines [B, T, H, W] of every location of normalised pixels [B, 3, H, W] with unit
        embeddings [T, D].
        """
        maps = torch.einsum("bdhw,td->bthw", F.normalize(self.dense(images), dim=1), embeddings)
        full = F.interpolate(
            maps, scale_factor=self.backbone.strides[0], mode="bilinear", align_corners=False
        )
        # cuts off the padding at the right and lower edges
        return full[..., : images.shape[-2], : images.shape[-1]]

    def fused_scores(self, images: Tensor, query: Tensor) -> Tensor:
        """Cosines [B] of normalised pixels [B, 3, H, W], conditioned on a unit text embedding
        [1, D], with that text.
        """
        dense = self.with_dense(images).dense
        return fusion_scores(self.fusion, dense, query.expand(len(images), 1, -1))[:, 0]
