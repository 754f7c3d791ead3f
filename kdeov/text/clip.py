"""The frozen text tower of CLIP: the student's vocabulary."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdeov.errors import DataError
from kdeov.text.base import DESCRIPTION, TENSORS, TextTower
from kdeov.weights.clip import import_clip, load_clip_state_dict
from kdeov.weights.device import usable_device
from kdeov.weights.state_dict import StateDict, half_where_exact, write_tensors

logger = logging.getLogger(__name__)


class FrozenCLIPTextEncoder(TextTower):
    """CLIP's text transformer, never trained (Radford et al., 2021, arXiv:2103.00020).

    Args:
        clip_model_name: A name of `clip.available_models()` or a path to CLIP weights.
        device: Device of the encoder.

    Raises:
        KdeovError: The weights cannot be read or downloaded, or are not CLIP's.
    """

    def __init__(
        self, clip_model_name: str | Path = "ViT-B/32", device: str | torch.device = "cpu"
    ):
        super().__init__()
        target = usable_device(device)
        self._build(load_clip_state_dict(clip_model_name), clip_model_name)
        self.to(target)

    @classmethod
    def from_state_dict(cls, state: StateDict) -> FrozenCLIPTextEncoder:
        """Builds the encoder from tensors named as in `clip.model.CLIP`; the image tower's are
        ignored.
        """
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._build(state)
        return encoder

    def _build(self, state: StateDict, name: object = "weights") -> None:
        clip = import_clip()
        context_length, width = state["positional_embedding"].shape
        layers = len(
            {key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}
        )
        mask = torch.full((context_length, context_length), float("-inf")).triu_(1)
        self.transformer = clip.model.Transformer(width, layers, width // 64, attn_mask=mask)
        for block in self.transformer.resblocks:
            # clip's own norm always computes in single precision, with which no other model works
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_embedding = nn.Embedding(*state["token_embedding.weight"].shape)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(*state["text_projection"].shape))
        self.logit_scale = nn.Parameter(torch.empty([]))
        try:
            if not layers:
                raise RuntimeError("no transformer.resblocks")
            self.load_state_dict(
                {key: value.float() for key, value in state.items() if key in self.state_dict()}
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise DataError(
                f"{name}: not the text tower of a CLIP ({reason}); name CLIP weights"
            ) from error
        self.requires_grad_(False)
        self.eval()
        self._warned_of_cuts = False

    @property
    def context_length(self) -> int:
        """Tokens of the longest text that is not cut."""
        return self.positional_embedding.shape[0]

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self.text_projection.shape[1]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """CLIP's byte-pair tokens, [N, context]; longer texts are cut, with one warning."""
        clip = import_clip()
        tokens = clip.tokenize(list(texts), context_length=self.context_length, truncate=True)
        if not self._warned_of_cuts and bool((tokens[:, -1] != 0).any()):
            self._warned_of_cuts = True
            logger.warning(
                "some texts fill or exceed %d tokens and are cut there", self.context_length
            )
        return tokens

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [N, context] on the encoder's device to embeddings [N, D], not normalized."""
        x = self.token_embedding(tokens) + self.positional_embedding
        # clip's blocks are sequence-first
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        ends = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
        return (
            self.ln_final(x)[torch.arange(x.shape[0], device=x.device), ends] @ self.text_projection
        )

    def save(self, folder: Path) -> None:
        """Writes `TENSORS` and `DESCRIPTION`."""
        # CLIP is published in half precision, which holds those weights exactly at half the size
        write_tensors(folder / TENSORS, half_where_exact(self.state_dict()))
        (folder / DESCRIPTION).write_text(json.dumps({"kind": "clip"}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FrozenCLIPTextEncoder:
        """Reads what `save` wrote."""
        return cls.from_state_dict(load_file(folder / TENSORS))
