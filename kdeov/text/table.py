"""The vocabulary of a teacher whose text tower is not at hand: texts with vectors that someone has
computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kdeov.errors import KdeovError
from kdeov.text.base import DESCRIPTION, TENSORS, TextEncoder
from kdeov.weights.state_dict import write_tensors

EXAMPLES = 3
CLIP_SCALE = 100.0  # to which all of OpenAI's models were trained; it moves no ranking


class PrecomputedTextEncoder(TextEncoder):
    """Texts and their vectors, looked up instead of computed.

    Args:
        texts: N texts, each as it was embedded: `a cat`, not `cat`, where that was the prompt.
        vectors: [N, D], of any length.

    Raises:
        KdeovError: Texts and vectors differ in number, or one text has two different vectors.
    """

    def __init__(self, texts: Sequence[str], vectors: Tensor):
        super().__init__()
        if len(texts) != len(vectors):
            raise KdeovError(f"{len(texts)} texts for {len(vectors)} text vectors; give one each")
        self.texts = list(texts)
        self._rows: dict[str, int] = {}
        for row, text in enumerate(self.texts):
            known = self._rows.setdefault(text, row)
            if not torch.equal(vectors[known], vectors[row]):
                raise KdeovError(f"the text {text!r} has two different vectors; remove one")
        self.vectors: Tensor
        self.logit_scale: Tensor
        self.register_buffer("vectors", vectors.detach().float())
        self.register_buffer("logit_scale", torch.tensor(math.log(CLIP_SCALE)))

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.vectors.shape[1]

    def forward(self, texts: Sequence[str]) -> Tensor:
        """The vectors [N, D] of N texts, as they were given.

        Raises:
            KdeovError: One of the texts is not in the table.
        """
        unknown = next((text for text in texts if text not in self._rows), None)
        if unknown is not None:
            known = ", ".join(repr(text) for text in self.texts[:EXAMPLES]) or "none"
            raise KdeovError(
                f"there is no vector of the text {unknown!r}: this teacher has no text tower and "
                f"knows {len(self.texts)} texts alone ({known}, ...); add its vector to "
                "teacher.embeddings.texts or choose templates and class names that it knows"
            )
        return self.vectors[[self._rows[text] for text in texts]]

    def save(self, folder: Path) -> None:
        """Writes `TENSORS` and `DESCRIPTION`."""
        write_tensors(folder / TENSORS, {"vectors": self.vectors})
        description = {"kind": "table", "texts": self.texts}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> PrecomputedTextEncoder:
        """Reads what `save` wrote."""
        texts = json.loads((folder / DESCRIPTION).read_text())["texts"]
        return cls(texts, load_file(folder / TENSORS)["vectors"])
