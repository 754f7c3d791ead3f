"""The model that a command runs: an export folder, a student folder, or a model of MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image

from kdeov.errors import ConfigError, DataError
from kdeov.prompts import templates

if TYPE_CHECKING:
    from kdeov.models.model import KDEOVModel
    from kdeov.runtime.detections import Detections, Regions, Selection
    from kdeov.runtime.model import Model

Precision = Literal["fp32", "int8"]
CARD, STUDENT = "card.json", "student.safetensors"
DEFAULT = Path("out/export")
MLFLOW_SCHEMES = ("models:", "runs:", "mlflow-artifacts:")


class InferenceModel(Protocol):
    """A student that embeds images and texts; arrays in and out.

    Attributes:
        embed_dim: Width of the joint space, D.
        logit_scale: Factor between cosines and logits.
        image_digest: Digest of what embeds images.
        text_digest: Digest of what embeds texts.
        templates: Prompts of labels where a command names none.
        provider: For people: what computes.
    """

    embed_dim: int
    logit_scale: float
    image_digest: str
    text_digest: str
    templates: tuple[str, ...]
    provider: str

    def preprocess(self, image: Path | Image.Image) -> np.ndarray:
        """The centred square of an image, uint8 [3, S, S]."""

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, 3, S, S] to unit embeddings float32 [B, D]."""

    def class_embeddings(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """K labels to unit embeddings float32 [K, D], by prompt ensembling."""

    def heatmap(self, image: Image.Image, classes: np.ndarray) -> np.ndarray:
        """Cosines [K, S, S] of the locations of the centred square of an image with unit embeddings
        [K, D].
        """


def open_model(address: str | None, precision: Precision = "fp32") -> InferenceModel:
    """Opens the model at an address.

    Args:
        address: An export folder, a student folder (which needs PyTorch), or a model of MLflow
            (`models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/MODEL_ID`, `runs:/RUN/student`);
            None is the export of the checkout in the current folder.
        precision: `fp32` or `int8`.

    Raises:
        KdeovError: There is no model, or it is damaged.
    """
    if address is None:
        return ExportedModel.open(_default(), precision)
    if address.startswith(MLFLOW_SCHEMES):
        from pipeline.tracking.download import download_model

        return _open_folder(download_model(address), address, precision)
    return _open_folder(Path(os.path.expanduser(address)), address, precision)  # noqa: PTH111


def open_detector(address: str | None) -> ExportedModel:
    """Opens the export at an address, with its box head.

    Args:
        address: See `open_model`; a student folder has no box head.

    Raises:
        KdeovError: There is no model, it has no box head, or it is damaged.
    """
    model = open_model(address)
    if not isinstance(model, ExportedModel):
        raise ConfigError(
            f"--model {address}: a student folder is no export; `kdeov export {address} --boxes "
            "FOLDER -o OUT` writes one with boxes"
        )
    model.open_boxes()
    return model


def _open_folder(folder: Path, address: str, precision: Precision) -> InferenceModel:
    for inner in (folder, folder / "export"):  # within a model of MLflow
        if (inner / CARD).is_file():
            return ExportedModel.open(inner, precision)
    if (folder / STUDENT).is_file():
        if precision != "fp32":
            raise ConfigError(f"--int8 takes an export folder; {address} is a student folder")
        return TorchModel.load(folder)
    raise DataError(
        f"--model {address}: neither an export folder ({CARD}) nor a student folder ({STUDENT}); "
        "name one, or run `dvc repro export`"
    )


def _default() -> Path:
    if (DEFAULT / CARD).is_file():
        return DEFAULT
    if Path("dvc.yaml").is_file():
        raise DataError(
            f"{DEFAULT}: no exported model yet; run `dvc repro export`, or give --model"
        )
    raise DataError(
        f"no {DEFAULT} here; run in a checkout of KDEOV after `dvc repro`, or give --model FOLDER"
    )


class ExportedModel:
    """An export folder in ONNX Runtime; see `InferenceModel`."""

    def __init__(self, model: Model):
        self._model = model
        self.embed_dim, self.logit_scale = model.embed_dim, model.card.text.logit_scale
        self.image_digest, self.text_digest = model.image_digest, model.card.text.space
        self.templates, self.provider = model.card.text.templates, model.provider

    @classmethod
    def open(cls, folder: Path, precision: Precision) -> ExportedModel:
        """Opens and tests an export folder."""
        from kdeov.runtime.model import Model

        return cls(Model.open(folder, precision=precision))

    def preprocess(self, image: Path | Image.Image) -> np.ndarray:
        return self._model.preprocess(image)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return self._model.embed_pixels(pixels)

    def class_embeddings(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        return self._model.class_embeddings(labels, prompts)

    def heatmap(self, image: Image.Image, classes: np.ndarray) -> np.ndarray:
        return self._model.heatmap(image, classes)[0]

    @property
    def has_boxes(self) -> bool:
        """Whether the export has a box head."""
        return self._model.card.detection is not None

    @property
    def has_tower(self) -> bool:
        """Whether any text can be embedded, not listed ones alone."""
        return self._model.card.text.kind == "tower"

    @property
    def name(self) -> str:
        """Name of the student, for people."""
        return self._model.card.name

    def background(self) -> np.ndarray | None:
        """Unit embeddings of images of the training data, float32 [N, D]; None without."""
        return self._model.background()

    def open_boxes(self) -> None:
        """Opens and tests the box head."""
        self._model.proposer  # noqa: B018 (opened once, before threads share it)

    def propose(self, image: Path | Image.Image) -> Regions:
        """Boxes of whatever may be an object in an image."""
        return self._model.propose(image)[0]

    def score(self, regions: Regions, classes: np.ndarray, selection: Selection) -> Detections:
        """The objects of unit class embeddings [K, D] among the proposals of an image."""
        return self._model.score(regions, classes, selection=selection)[0]


class TorchModel:
    """A student folder in PyTorch; see `InferenceModel`."""

    def __init__(self, model: KDEOVModel, digests: dict[str, Any]):
        import torch

        self._model, self._torch = model, torch
        self.embed_dim = model.embed_dim
        self.logit_scale = float(model.text_encoder.logit_scale.exp())
        self.image_digest = digests[STUDENT]
        self.text_digest = digests["text_encoder.safetensors"]
        self.templates, self.provider = templates("simple"), f"PyTorch on {model.device}"

    @classmethod
    def load(cls, folder: Path) -> TorchModel:
        """Loads a folder that `KDEOVModel.save` or stage `distill` wrote."""
        from kdeov.models.model import KDEOVModel
        from kdeov.weights.digests import sha256_file

        model = KDEOVModel.load(folder)
        names = (STUDENT, "text_encoder.safetensors")
        return cls(model, {name: sha256_file(folder / name) for name in names})

    def preprocess(self, image: Path | Image.Image) -> np.ndarray:
        from kdeov.runtime.images import square_pixels

        transform = self._model.transform
        return square_pixels(image, transform.size, transform.interpolation)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            tensors = self._torch.from_numpy(pixels)
            normalized = self._model.transform.normalize(tensors)
            return self._model.encode_image(normalized).float().cpu().numpy()

    def class_embeddings(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        embeddings = self._model.text_encoder.class_embeddings(labels, prompts)
        return embeddings.float().cpu().numpy()

    def heatmap(self, image: Image.Image, classes: np.ndarray) -> np.ndarray:
        maps = self._model.heatmap(image, self._torch.from_numpy(classes))
        return maps[0].float().cpu().numpy()
