"""The model of an index or a query, of which no more is opened than is used: a query of texts opens
no image tower, a query of known texts and an index without new images open nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.runtime.card import DETECT, IMAGE, INT8, Card, read_card
from kdeov.weights.folder import user_path
from pipeline.inference.models import (
    CARD,
    DEFAULT,
    MLFLOW_SCHEMES,
    ExportedModel,
    InferenceModel,
    Precision,
    open_model,
)
from pipeline.search.identity import IndexIdentity

if TYPE_CHECKING:
    from kdeov.runtime.texts import Texts

FILES = {"fp32": IMAGE, "int8": INT8}


class SearchModel:
    """A model at an address (see `open_model`); an export folder is described by its card alone.

    Args:
        address: Of the model; None is the export of the checkout in the current folder.
        precision: `fp32` or `int8`.

    Attributes:
        address: Where the model is found again from another folder.
        embed_dim: Width of the joint space, D.
        image_digest: Digest of what embeds images.
        text_digest: Digest of what embeds texts.
        templates: Prompts of labels where a command names none.
        name: For people.

    Raises:
        KdeovError: There is no model, or it is damaged.
    """

    def __init__(self, address: str | None, precision: Precision = "fp32"):
        self._address, self._precision = address, precision
        self._folder = _export_folder(address)
        self._card = read_card(self._folder) if self._folder is not None else None
        if self._card is not None:
            self.image_digest = _digest(self._card, FILES[precision], self._folder)
            self.embed_dim, self.text_digest = self._card.embed_dim, self._card.text.space
            self.templates, self.name = self._card.text.templates, self._card.name
        else:
            model = self.opened
            self.image_digest, self.text_digest = model.image_digest, model.text_digest
            self.embed_dim, self.templates = model.embed_dim, model.templates
            self.name = str(address)
        local = address is None or not address.startswith(MLFLOW_SCHEMES)
        self.address = str(user_path(address or DEFAULT).absolute()) if local else str(address)

    @cached_property
    def opened(self) -> InferenceModel:
        """The model, opened and tested."""
        return open_model(self._address, self._precision)

    def detector(self) -> ExportedModel:
        """The opened model with its box head.

        Raises:
            KdeovError: It has none.
        """
        model = self.opened
        if not isinstance(model, ExportedModel):
            raise ConfigError(f"--objects: {self._address} is a student folder; export it first")
        model.open_boxes()
        return model

    def class_embeddings(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """K labels to unit embeddings float32 [K, D], by prompt ensembling."""
        if self._card is None:
            return self.opened.class_embeddings(labels, prompts)
        return self._texts.class_embeddings(labels, prompts)

    def background(self) -> np.ndarray | None:
        """Unit embeddings of images of the training data, float32 [N, D]; None without."""
        if self._card is not None and self._folder is not None:
            from kdeov.runtime.background import read_background

            return read_background(self._folder, self._card)
        opened = self.opened
        return opened.background() if isinstance(opened, ExportedModel) else None

    def identity(self, objects: bool) -> IndexIdentity:
        """The identity of an index that this model makes.

        Args:
            objects: Whether it holds regions.

        Raises:
            DataError: The model has no box head.
        """
        found = None
        if objects:
            if self._card is None:
                self.detector()  # of MLflow, which is opened already
                found = self.image_digest
            else:
                found = _digest(self._card, DETECT, self._folder)
        return IndexIdentity(self.image_digest, self.text_digest, self.embed_dim, self.name, found)

    @cached_property
    def _texts(self) -> Texts:
        from kdeov.runtime.texts import open_texts

        assert self._card is not None and self._folder is not None
        return open_texts(self._folder, self._card)


def _export_folder(address: str | None) -> Path | None:
    """The export folder at an address; None for a student folder or a model of MLflow."""
    if address is not None and address.startswith(MLFLOW_SCHEMES):
        return None
    folder = DEFAULT if address is None else user_path(address)
    return next((inner for inner in (folder, folder / "export") if (inner / CARD).is_file()), None)


def _digest(card: Card, name: str, folder: Path | None) -> str:
    if name not in card.files:
        raise DataError(
            f"{folder}: exported without {name}; "
            + ("train a box head and export again" if name == DETECT else "leave --int8 out")
        )
    return card.files[name]
