"""Teachers: a frozen CLIP, with everything that its embeddings depend on."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kdeov.clip_loading import import_clip, load_clip_state_dict
from kdeov.errors import KdeovError
from kdeov.text import FrozenCLIPTextEncoder
from kdeov.text_encoder import TextTower
from kdeov.transform import ImageTransform
from kdeov.weights import StateDict, state_dict_sha256


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
        transform: How it sees pictures.
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
        """Pictures to normalised pixels [B, 3, size, size]."""
        return torch.stack([self.transform(image) for image in images])


class ClipTeacher(TowerTeacher):
    """A frozen CLIP of the `clip` package.

    Args:
        state: Weights named as in `clip.model.CLIP`.
        name: What to call it in tables and in its identity.

    Raises:
        KdeovError: The weights do not fit together.
    """

    def __init__(self, state: StateDict, name: str):
        super().__init__()
        clip = import_clip()
        try:
            model = clip.model.build_model(dict(state)).float()
        except (KeyError, RuntimeError, AssertionError, ValueError, ZeroDivisionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise KdeovError(
                f"{name}: these weights do not form a CLIP model ({reason})"
            ) from error
        self.name = name
        self.weights_sha256 = state_dict_sha256(state)
        self.visual = model.visual
        self.text: FrozenCLIPTextEncoder = FrozenCLIPTextEncoder.from_state_dict(model.state_dict())
        self.transform = ImageTransform(size=int(model.visual.input_resolution))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls, name_or_path: str | Path, device: str | torch.device = "cpu", name: str | None = None
    ) -> ClipTeacher:
        """Loads a teacher by CLIP name or from a weight file."""
        teacher = cls(load_clip_state_dict(name_or_path), name or Path(str(name_or_path)).name)
        return teacher.to(device)

    def identity(self) -> TeacherIdentity:
        """Library, weights, tokenizer and transform."""
        return TeacherIdentity(
            library="clip",
            name=self.name,
            weights_sha256=self.weights_sha256,
            tokenizer=tokenizer_digest(),
            context_length=self.text.context_length,
            embed_dim=self.embed_dim,
            transform=self.transform.to_dict(),
        )


def tokenizer_digest() -> str:
    """Name and content of CLIP's byte-pair vocabulary."""
    clip = import_clip()
    source = Path(inspect.getfile(clip.simple_tokenizer)).parent / "bpe_simple_vocab_16e6.txt.gz"
    return f"clip-bpe-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
