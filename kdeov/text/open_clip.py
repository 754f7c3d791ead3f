"""The frozen text tower of an open_clip model: a student's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeov.errors import DataError
from kdeov.text.base import DESCRIPTION, TENSORS, TextTower
from kdeov.text.tokenizer import OpenClipTokenizer
from kdeov.weights.device import usable_device
from kdeov.weights.folder import user_path
from kdeov.weights.state_dict import StateDict, half_where_exact, read_state_dict, write_tensors
from kdeov.weights.towers import Config, build_text_tower, load_strictly, read_config, tower_config

FORMAT = 1
KIND = "open_clip"
TOKENIZER = "tokenizer"


class OpenClipTextEncoder(TextTower):
    """open_clip's text tower, never trained, with its tokenizer.

    Args:
        config: Configuration of the model (see `tower_config`); its image section is ignored.
        state: Exactly `text.*` and `logit_scale` (SigLIP: `logit_bias` too).
        tokenizer: The tokenizer that the tower was trained with.
        name: Name of the model, for errors.

    Raises:
        DataError: The weights are not those of the configuration.
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
        load_strictly(self, state, name)
        self.requires_grad_(False)
        self.eval()

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.config["embed_dim"]

    @property
    def architecture(self) -> dict[str, Any]:
        """The configuration, without that of the image tower."""
        return {key: value for key, value in self.config.items() if key != "vision_cfg"}

    @property
    def context_length(self) -> int:
        """Tokens of the longest text that is not cut."""
        return self.tokenizer.context_length

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, with one warning."""
        return self.tokenizer(texts)

    def tokenizer_digest(self) -> str:
        """Name and digest of the tokenizer."""
        return self.tokenizer.digest

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, context] on the encoder's device to embeddings [N, D], not normalized."""
        return self.text(tokens)

    def save(self, folder: str | Path) -> None:
        """Writes `DESCRIPTION`, `TENSORS` and the tokenizer's files, if it has any, so that `load`
        needs no network.
        """
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / TENSORS, half_where_exact(self.state_dict()))
        if self.tokenizer.needs_files:
            self.tokenizer.save(folder / TOKENIZER)
        config = {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "model_cfg": self.architecture,
            "tokenizer": self.tokenizer_digest(),
        }
        (folder / DESCRIPTION).write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> OpenClipTextEncoder:
        """Reads what `save` wrote.

        Raises:
            DataError: The folder holds something else, or the tokenizer gives other tokens now.
        """
        folder = user_path(folder)
        version, name, model, digest = read_config(
            folder / DESCRIPTION, "format", "name", "model_cfg", "tokenizer"
        )
        require_format(version, folder / DESCRIPTION)
        model = tower_config({**model, "vision_cfg": {}}, name)
        tokenizer = OpenClipTokenizer(model["text_cfg"], folder / TOKENIZER)
        require_tokenizer(tokenizer, digest, folder)
        encoder = cls(model, read_state_dict(folder / TENSORS), tokenizer, name)
        return encoder.to(usable_device(device))


def require_format(version: object, path: Path) -> None:
    """Compares the format of a saved file with the one that this version reads.

    Raises:
        DataError: The formats differ.
    """
    if version != FORMAT:
        raise DataError(f"{path}: format {version}, expected {FORMAT}; save it again")


def require_tokenizer(tokenizer: OpenClipTokenizer, digest: str, folder: Path) -> None:
    """Compares a tokenizer with the digest that was saved.

    Raises:
        DataError: The tokenizer gives other tokens than when it was saved.
    """
    if tokenizer.digest != digest:
        raise DataError(
            f"{folder}: its tokenizer is {tokenizer.digest}, {digest} was saved; install the "
            "versions of open_clip and transformers that saved it, or save it again"
        )
