"""A frozen teacher of the `clip` package."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import torch

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError, first_line
from kdeov.teachers.base import TeacherIdentity, TowerTeacher
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.weights.clip import import_clip, load_clip_state_dict
from kdeov.weights.device import usable_device
from kdeov.weights.state_dict import StateDict, state_dict_sha256


class ClipTeacher(TowerTeacher):
    """A frozen CLIP of the `clip` package.

    Args:
        state: Weights named as in `clip.model.CLIP`.
        name: Name of the model, for tables and the identity.

    Raises:
        DataError: The weights do not fit together.
    """

    def __init__(self, state: StateDict, name: str):
        super().__init__()
        clip = import_clip()
        try:
            model = clip.model.build_model(dict(state)).float()
        except (KeyError, RuntimeError, AssertionError, ValueError, ZeroDivisionError) as error:
            raise DataError(
                f"{name}: these weights do not form a CLIP model ({first_line(error)}); get them "
                "again"
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
        """Loads a teacher by CLIP name or from a weight file (see `load_clip_state_dict`)."""
        target = usable_device(device)
        teacher = cls(load_clip_state_dict(name_or_path), name or Path(str(name_or_path)).name)
        return teacher.to(target)

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
    """Name, and 16 hexadecimal digits of the file of CLIP's byte-pair vocabulary."""
    clip = import_clip()
    source = Path(inspect.getfile(clip.simple_tokenizer)).parent / "bpe_simple_vocab_16e6.txt.gz"
    return f"clip-bpe-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
