"""What every frozen vocabulary is: texts in, vectors of the joint embedding space out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import KdeovError

TENSORS = "text_encoder.safetensors"
DESCRIPTION = "text_encoder.json"


class TextEncoder(nn.Module):
    """A frozen text encoder; `forward` takes texts and gives vectors [N, D], not normalised.

    Attributes:
        logit_scale: Logarithm of the factor that makes logits of cosines.
    """

    logit_scale: Tensor

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space, D."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def class_vectors(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
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

    def save(self, folder: Path) -> None:
        """Writes `DESCRIPTION`, which states its kind, and the files that `load` needs."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Reads what `save` wrote."""
        raise NotImplementedError
