"""Base class of frozen teachers, and the identity of their embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.text.base import TextTower


@dataclass(frozen=True)
class TeacherIdentity:
    """What a teacher's embeddings depend on: equal identities give equal vectors."""

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
        name: What to call it in tables and in its identity.
        weights_sha256: The digest of its tensors.
        visual: Normalised pixels [B, 3, size, size] to vectors [B, D].
        text: Its vocabulary.
        transform: How it sees images.
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
        """Normalised pixels [B, 3, size, size] to vectors [B, D], not normalised."""
        return self.visual(images)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to vectors [N, D], not normalised."""
        return self.text(texts)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Images to normalised pixels [B, 3, size, size]."""
        return torch.stack([self.transform(image) for image in images])
