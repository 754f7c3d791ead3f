"""What every frozen vocabulary is: texts in, vectors of the joint embedding space out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import KdeovError

TENSORS = "text_encoder.safetensors"
DESCRIPTION = "text_encoder.json"


class TextEncoder(nn.Module, ABC):
    """A frozen text encoder; `forward` takes texts and gives vectors [N, D], not normalised.

    Attributes:
        logit_scale: Logarithm of the factor that makes logits of cosines.
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
            [K, D] unit vectors: per class, the mean of its unit prompt vectors, normalised again.

        Raises:
            KdeovError: The names are one string.
        """
        if isinstance(class_names, str):  # a string is a sequence of letters, never meant as such
            raise KdeovError(f"class names are {class_names!r}; give a list of names")
        prompts = [template.format(name) for name in class_names for template in templates]
        vectors = F.normalize(self(prompts), dim=-1).view(len(class_names), len(templates), -1)
        return F.normalize(vectors.mean(dim=1), dim=-1)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes `DESCRIPTION`, which states its kind, and the files that `load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Reads what `save` wrote."""


class TextTower(TextEncoder):
    """A text encoder that computes vectors of any text, from tokens."""

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What its tensors do not tell of it, such as its activation; None where they tell all."""
        return None

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, which is said once."""

    @abstractmethod
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, context], on its device, to vectors [N, D], not normalised."""

    @torch.no_grad()
    def forward(self, texts: Sequence[str] | Tensor, batch_size: int = 256) -> Tensor:
        """Embeds texts.

        Args:
            texts: Strings, or tokens [N, context].
            batch_size: Texts per pass.

        Returns:
            [N, D], not normalised, as `encode_text` of its library gives them.
        """
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        device = self.logit_scale.device
        return torch.cat([self.encode_tokens(part.to(device)) for part in tokens.split(batch_size)])
