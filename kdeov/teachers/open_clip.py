"""A frozen teacher of open_clip: OpenAI, LAION, DataComp, DFN, MetaCLIP, SigLIP, MobileCLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdeov.errors import DataError
from kdeov.teachers.base import TeacherIdentity, TowerTeacher
from kdeov.text.open_clip import (
    FORMAT,
    OpenClipTextEncoder,
    require_format,
    require_tokenizer,
)
from kdeov.text.tokenizer import OpenClipTokenizer, require_transformers, tokenizer_folder
from kdeov.weights.device import usable_device
from kdeov.weights.digests import read_description, write_description
from kdeov.weights.folder import user_path
from kdeov.weights.hub import fetch_weights
from kdeov.weights.open_clip import CONFIG_FILE, find_source, infer_preprocessing
from kdeov.weights.state_dict import (
    StateDict,
    half_where_exact,
    read_state_dict,
    state_dict_sha256,
    write_tensors,
)
from kdeov.weights.towers import (
    Config,
    build_image_tower,
    entries,
    image_size,
    image_transform,
    load_strictly,
    tower_config,
    tower_state_dict,
)

WEIGHTS_FILE = "open_clip_model.safetensors"  # open_clip's name for it


@dataclass(frozen=True, kw_only=True)
class OpenClipIdentity(TeacherIdentity):
    """A teacher's identity with its architecture, since weights do not hold the activation.

    Attributes:
        architecture: Configuration of the towers, with `quick_gelu`.
    """

    architecture: dict[str, Any]


class OpenClipTeacher(TowerTeacher):
    """A frozen model of `open_clip`, in single precision.

    Every teacher of KDEOV is shown square crops, also those whose authors squash or pad whole
    images (SigLIP, CLIPA, PE-Core): on squares all of open_clip's resize modes agree. An image
    without a view is cut as `transform.crop` says.

    Args:
        config: An open_clip configuration.
        preprocess: `mean`, `std`, `interpolation` and `resize_mode`.
        state: Weights, named as in `open_clip.CLIP` or `open_clip.CustomTextCLIP`.
        tokenizer: The tokenizer that the text tower was trained with.
        name: Name of the model, for tables and the identity.

    Raises:
        ConfigError: The configuration is not supported, or reads no squares.
        DataError: The weights are not those of the configuration.
    """

    def __init__(
        self,
        config: Config,
        preprocess: dict[str, Any],
        state: StateDict,
        tokenizer: OpenClipTokenizer,
        name: str,
    ):
        super().__init__()
        self.name = name
        self.config = tower_config(config, name)
        self.preprocessing = dict(preprocess)
        self.transform = image_transform(preprocess, image_size(self.config, name), name)
        image: StateDict = {}
        text: StateDict = {}
        for key, value in tower_state_dict(state).items():
            (image if key.startswith("visual.") else text)[key] = value
        self.text: OpenClipTextEncoder = OpenClipTextEncoder(self.config, text, tokenizer, name)
        self.visual = build_image_tower(self.config, name)
        image = {key.removeprefix("visual."): value for key, value in image.items()}
        load_strictly(self.visual, image, name, prefix="visual.")
        self.weights_sha256 = state_dict_sha256(self._tensors())
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls,
        architecture: str,
        pretrained: str | Path,
        cache_dir: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> OpenClipTeacher:
        """Loads a teacher by architecture and tag or weight file; downloads what is missing.

        Args:
            architecture: A name of `open_clip.list_models()`.
            pretrained: A tag of the architecture, or a local weight file.
            cache_dir: Folder for downloads; by default open_clip's.
            device: Device of the teacher.

        Raises:
            ConfigError: A name is unknown, or the weights were trained with another activation.
            DataError: The weights are damaged or another model's.
            StorageError: The weights cannot be downloaded.
        """
        target = usable_device(device)
        source = find_source(architecture, pretrained)
        image_size(source.config, source.name)
        text_config = source.config["text_cfg"]
        if text_config.get("hf_tokenizer_name"):
            require_transformers(source.name)
        path = fetch_weights(source, cache_dir)
        beside = tokenizer_folder(source.file) if source.file else None
        tokenizer = OpenClipTokenizer(text_config, beside, cache_dir)
        state = read_state_dict(path)
        preprocess = infer_preprocessing(source, state)
        return cls(source.config, preprocess, state, tokenizer, source.name).to(target)

    def identity(self) -> OpenClipIdentity:
        """Library, weights, architecture, tokenizer and transform."""
        return OpenClipIdentity(
            library="open_clip",
            name=self.name,
            weights_sha256=self.weights_sha256,
            tokenizer=self.text.tokenizer_digest(),
            context_length=self.text.context_length,
            embed_dim=self.embed_dim,
            transform=self.transform.to_dict(),
            architecture=self.config,
        )

    def _tensors(self) -> StateDict:
        """The weights, named as in `open_clip.CustomTextCLIP`."""
        image = {f"visual.{key}": value for key, value in self.visual.state_dict().items()}
        return {**image, **self.text.state_dict()}

    def save(self, folder: str | Path) -> None:
        """Writes weights, configuration and tokenizer, so that `open` needs no network.

        The form is open_clip's own: `open_clip.create_model("local-dir:FOLDER")` reads the folder.
        """
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS_FILE, half_where_exact(self._tensors()))
        tokenizer_files = self.text.tokenizer.save(folder)
        config = {
            "model_cfg": {**self.config, "custom_text": True},
            "preprocess_cfg": {**self.preprocessing, "size": self.transform.size},
            "format": FORMAT,
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "tokenizer": self.text.tokenizer_digest(),
        }
        # the digest of the weights is that of their tensors
        write_description(folder / CONFIG_FILE, config, tokenizer_files)

    @classmethod
    def open(cls, folder: str | Path, device: str | torch.device = "cpu") -> OpenClipTeacher:
        """Reads what `save` wrote.

        Raises:
            DataError: The folder holds something else, or weights or tokenizer are not those that
                were saved.
        """
        folder = user_path(folder)
        path = folder / CONFIG_FILE
        version, name, digest, sha256, model, preprocess = entries(
            read_description(path, "save the teacher again"), path,
            "format", "name", "tokenizer", "weights_sha256", "model_cfg", "preprocess_cfg",
        )  # fmt: skip
        require_format(version, path)
        tokenizer = OpenClipTokenizer(tower_config(model, name)["text_cfg"], folder)
        require_tokenizer(tokenizer, digest, folder)
        teacher = cls(model, preprocess, read_state_dict(folder / WEIGHTS_FILE), tokenizer, name)
        if teacher.weights_sha256 != sha256:
            raise DataError(
                f"{folder / WEIGHTS_FILE}: not the weights of {CONFIG_FILE}; save the teacher again"
            )
        return teacher.to(usable_device(device))
