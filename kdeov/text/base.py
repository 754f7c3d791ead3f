"""Base classes of frozen text encoders: texts to embeddings in the joint space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import ConfigError

TENSORS = "text_encoder.safetensors"
DESCRIPTION = "text_encoder.json"


class TextEncoder(nn.Module, ABC):
    """A frozen text encoder: N texts to embeddings [N, D], not normalized.

    Attributes:
        logit_scale: Logarithm of the factor between cosines and logits.
    """

    logit_scale: Tensor

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width of the joint embedding space, D."""

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def class_embeddings(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Zero-shot classifier weights by prompt ensembling (CLIP, section 3.1.4).

        Args:
            class_names: K names.
            templates: T prompts with one `{}` each.

        Returns:
            [K, D] unit embeddings: per class, the mean of its unit prompt embeddings, normalized
            again.

        Raises:
            ConfigError: The names are one string.
        """
        if isinstance(class_names, str):  # a string is a sequence of letters, never meant as such
            raise ConfigError(f"class names are {class_names!r}; give a list of names")
        prompts = [template.format(name) for name in class_names for template in templates]
        embeddings = F.normalize(self(prompts), dim=-1)
        embeddings = embeddings.view(len(class_names), len(templates), -1)
        return F.normalize(embeddings.mean(dim=1), dim=-1)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes `DESCRIPTION`, with the encoder's kind, and the files that `load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Reads what `save` wrote."""


class TextTower(TextEncoder):
    """A text encoder that embeds any text, from its tokens."""

    @property
    def architecture(self) -> dict[str, Any] | None:
        """Settings that the tensors do not hold, such as the activation; None where there are
        none.
        """
        return None

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, with one warning."""

    @abstractmethod
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, context] on the encoder's device to embeddings [N, D], not normalized."""

    @torch.no_grad()
    def forward(self, texts: Sequence[str] | Tensor, batch_size: int = 256) -> Tensor:
        """Embeds texts.

        Args:
            texts: Strings, or tokens [N, context].
            batch_size: Texts per pass.

        Returns:
            [N, D], not normalized, as the library's `encode_text` returns.
        """
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        device = self.logit_scale.device
        return torch.cat([self.encode_tokens(part.to(device)) for part in tokens.split(batch_size)])
