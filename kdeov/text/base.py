"""Base classes of frozen text encoders: texts to embeddings in the joint space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import ConfigError
from kdeov.prompts import as_templates, class_prompts
from kdeov.weights.device import upload

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
    def class_embeddings(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        templates: Sequence[str] | str,
    ) -> Tensor:
        """Zero-shot classifier weights by prompt ensembling (CLIP, section 3.1.4).

        Args:
            class_names: K names, or a mapping whose values are names (see
                `kdeov.prompts.class_prompts`).
            templates: T prompts with one `{}` each, or the name of a set of `kdeov.prompts`.

        Returns:
            [K, D] unit embeddings: per class, the mean of its unit prompt embeddings, normalized
            again.

        Raises:
            ConfigError: Names or templates that name nothing.
        """
        names, templates = class_prompts(class_names), as_templates(templates)
        prompts = [template.format(name) for name in names for template in templates]
        embeddings = F.normalize(self(prompts), dim=-1)
        embeddings = embeddings.view(len(names), len(templates), -1)
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
    @abstractmethod
    def context_length(self) -> int:
        """Tokens of the longest text that is not cut."""

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

        Raises:
            ConfigError: Neither texts nor tokens.
        """
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(text_list(texts))
        self._require_tokens(tokens)
        parts = upload(tokens, self.logit_scale.device).split(batch_size)
        try:
            return torch.cat([self.encode_tokens(part) for part in parts])
        except IndexError as error:
            raise ConfigError(
                "a token is outside of the vocabulary; give what `tokenize` returns"
            ) from error

    def _require_tokens(self, tokens: Tensor) -> None:
        fits = tokens.ndim == 2 and tokens.shape[1] == self.context_length
        if not fits or tokens.dtype not in (torch.int32, torch.int64):
            raise ConfigError(
                f"tokens of shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give texts, or "
                f"integers [N, {self.context_length}]"
            )


def text_list(texts: Any) -> list[str]:
    """Texts as callers give them: one, or an iterable in order.

    Raises:
        ConfigError: Something that is no text.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping | Set | Tensor):
        raise ConfigError(f"texts are of type {type(texts).__name__}; give a list of texts")
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            several = " (one text for each image)" if isinstance(text, list | tuple) else ""
            raise ConfigError(
                f"text {number} is of type {type(text).__name__}; give a list of texts{several}"
            )
    return listed
