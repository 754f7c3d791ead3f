"""The frozen text tower of an open_clip model: a student's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeov.errors import KdeovError
from kdeov.text.base import DESCRIPTION, TENSORS, TextTower
from kdeov.text.tokenizer import OpenClipTokenizer
from kdeov.weights.state_dict import StateDict, halved_where_exact, read_state_dict, write_tensors
from kdeov.weights.towers import Config, build_text_tower, fill, read_config, tower_config

FORMAT = 1
KIND = "open_clip"
TOKENIZER = "tokenizer"


class OpenClipTextEncoder(TextTower):
    """open_clip's text tower, never trained, with its tokenizer.

    Args:
        config: Of the model (see `tower_config`); nothing of its image section is built.
        state: Exactly `text.*` and `logit_scale` (SigLIP: `logit_bias` too).
        tokenizer: That the tower was trained with.
        name: For errors.

    Raises:
        KdeovError: The weights are not those of the configuration.
    """

    def __init__(
        self, config: Config, state: StateDict, tokenizer: OpenClipTokenizer, name: str = "weights"
    ):
        super().__init__()
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.text = build_text_tower(config, name)
        self.logit_scale = nn.Parameter(torch.empty([]))
        if config.get("init_logit_bias") is not None:
            self.logit_bias = nn.Parameter(torch.empty([]))
        fill(self, state, name)
        self.requires_grad_(False)
        self.eval()

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.config["embed_dim"]

    @property
    def architecture(self) -> dict[str, Any]:
        """Its configuration, without that of the image tower."""
        return {key: value for key, value in self.config.items() if key != "vision_cfg"}

    @property
    def context_length(self) -> int:
        """Tokens that a text may have."""
        return self.tokenizer.context_length

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, which is said once."""
        return self.tokenizer(texts)

    def tokenizer_digest(self) -> str:
        """Name and content of the tokenizer."""
        return self.tokenizer.digest

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, context], on its device, to vectors [N, D], not normalised."""
        return self.text(tokens)

    def save(self, folder: str | Path) -> None:
        """Writes `DESCRIPTION`, `TENSORS` and, where there are any, the tokenizer's files: all that
        `load` needs, without a network.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / TENSORS, halved_where_exact(self.state_dict()))
        if self.tokenizer.needs_files:
            self.tokenizer.save(folder / TOKENIZER)
        config = {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "model_cfg": self.architecture,
            "tokenizer": self.tokenizer_digest(),
        }
        (folder / DESCRIPTION).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> OpenClipTextEncoder:
        """Reads what `save` wrote.

        Raises:
            KdeovError: The folder holds something else, or the tokenizer is not what it was.
        """
        folder = Path(folder)
        version, name, model, digest = read_config(
            folder / DESCRIPTION, "format", "name", "model_cfg", "tokenizer"
        )
        require_format(version, folder / DESCRIPTION)
        model = tower_config({**model, "vision_cfg": {}}, name)
        tokenizer = OpenClipTokenizer(model["text_cfg"], folder / TOKENIZER)
        require_tokenizer(tokenizer, digest, folder)
        return cls(model, read_state_dict(folder / TENSORS), tokenizer, name).to(device)


def require_format(version: object, path: Path) -> None:
    """Compares the format of what was saved with the one that is read here.

    Raises:
        KdeovError: They differ.
    """
    if version != FORMAT:
        raise KdeovError(f"{path}: format {version}, expected {FORMAT}; save it again")


def require_tokenizer(tokenizer: OpenClipTokenizer, digest: str, folder: Path) -> None:
    """Compares a tokenizer with what was saved.

    Raises:
        KdeovError: It gives other tokens than when it was saved.
    """
    if tokenizer.digest != digest:
        raise KdeovError(
            f"{folder}: its tokenizer is {tokenizer.digest}, saved was {digest}; install the "
            "versions of open_clip and transformers that saved it, or save it again"
        )
