"""Base class of frozen teachers, and the identity of their embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdeov.data.inputs import Images, to_pixels
from kdeov.data.transform import ImageTransform
from kdeov.text.base import TextTower


@dataclass(frozen=True)
class TeacherIdentity:
    """Everything that a teacher's embeddings depend on: equal identities give equal embeddings.

    Attributes:
        library: `clip`, `open_clip` or the name of another source of embeddings.
        name: Name of the model, for tables.
        weights_sha256: Digest of the tensors (see `state_dict_sha256`).
        tokenizer: Name and digest of the tokenizer.
        context_length: Tokens of the longest text that is not cut.
        embed_dim: Width of the joint embedding space.
        transform: `ImageTransform.to_dict()`.
    """

    library: str
    name: str
    weights_sha256: str
    tokenizer: str
    context_length: int
    embed_dim: int
    transform: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


class TowerTeacher(nn.Module, ABC):
    """A frozen teacher with both towers.

    Attributes:
        name: Name of the model, for tables and the identity.
        weights_sha256: Digest of the tensors.
        visual: Normalized pixels [B, 3, size, size] to embeddings [B, D].
        text: The text tower.
        transform: Resize and normalization of images.
    """

    name: str
    weights_sha256: str
    visual: nn.Module
    text: TextTower
    transform: ImageTransform

    @abstractmethod
    def identity(self) -> TeacherIdentity:
        """Library, weights, tokenizer and transform."""

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.text.embed_dim

    def train(self, mode: bool = True) -> TowerTeacher:
        """Stays in evaluation mode: the teacher is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Normalized pixels [B, 3, size, size] to embeddings [B, D], not normalized."""
        return self.visual(images)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts to embeddings [N, D], not normalized."""
        return self.text(texts)

    def preprocess(self, images: Images) -> Tensor:
        """B images to normalized pixels [B, 3, size, size]."""
        return to_pixels(images, self.transform)
