"""Text encoder of a teacher without a text tower: texts with embeddings computed elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kdeov.errors import ConfigError, DataError
from kdeov.prompts import normalize_text
from kdeov.text.base import DESCRIPTION, TENSORS, TextEncoder, text_list
from kdeov.weights.state_dict import write_tensors

NUM_TEXTS_SHOWN = 3  # in the error for an unknown text
CLIP_SCALE = 100.0  # the scale of all of OpenAI's models; no ranking depends on it
# The tensor keeps the name that saved teachers have: their identity is a digest of the file.
TENSOR = "vectors"


class PrecomputedTextEncoder(TextEncoder):
    """A table of texts and their embeddings, which are looked up instead of computed.

    Args:
        texts: N texts, each as it was embedded: `a cat`, not `cat`, where that was the prompt.
        embeddings: [N, D], of any length.

    Raises:
        DataError: Texts and embeddings differ in number, or one text has two different embeddings.
    """

    def __init__(self, texts: Sequence[str], embeddings: Tensor):
        super().__init__()
        if len(texts) != len(embeddings):
            raise DataError(
                f"{len(texts)} texts for {len(embeddings)} text embeddings; give one each"
            )
        self.texts = list(texts)
        self._rows: dict[str, int] = {}
        for row, text in enumerate(self.texts):
            known = self._rows.setdefault(text, row)
            if not torch.equal(embeddings[known], embeddings[row]):
                raise DataError(f"the text {text!r} has two different embeddings; remove one")
        self.embeddings: Tensor
        self.logit_scale: Tensor
        self.register_buffer("embeddings", embeddings.detach().float())
        self.register_buffer("logit_scale", torch.tensor(math.log(CLIP_SCALE)))

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.embeddings.shape[1]

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Looks up the embeddings [N, D] of N texts, unchanged.

        Raises:
            ConfigError: One of the texts is not in the table.
        """
        texts = [self._as_listed(text) for text in text_list(texts)]
        unknown = next((text for text in texts if text not in self._rows), None)
        if unknown is not None:
            known = ", ".join(repr(text) for text in self.texts[:NUM_TEXTS_SHOWN]) or "none"
            raise ConfigError(
                f"the text {unknown!r} has no embedding: this teacher has no text tower, only "
                f"{len(self.texts)} texts ({known}, ...); add the text to "
                "teacher.embeddings.texts or choose other templates and class names"
            )
        return self.embeddings[[self._rows[text] for text in texts]]

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {normalize_text(text): text for text in self.texts}

    def _as_listed(self, text: str) -> str:
        """The text of the table that reads the same, in other spaces or another Unicode form."""
        return text if text in self._rows else self._spellings.get(normalize_text(text), text)

    def save(self, folder: Path) -> None:
        """Writes `TENSORS` and `DESCRIPTION`."""
        write_tensors(folder / TENSORS, {TENSOR: self.embeddings})
        description = {"kind": "table", "texts": self.texts}
        (folder / DESCRIPTION).write_text(
            json.dumps(description, indent=1) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> PrecomputedTextEncoder:
        """Reads what `save` wrote."""
        texts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["texts"]
        return cls(texts, load_file(folder / TENSORS)[TENSOR])
