"""The text side of an export: a tower that embeds any text, or a table of texts."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.prompts import as_templates, class_prompts, normalize_text
from kdeov.runtime.card import (
    BPE,
    CARD,
    CLIP_BPE,
    FIX,
    HF_TOKENIZER,
    TABLE,
    TABLE_EMBEDDINGS,
    TABLE_TEXTS,
    TEXT,
    TOWER,
    Card,
    require_file,
)
from kdeov.runtime.golden import read_golden, require_equal_embeddings, unit
from kdeov.runtime.session import Providers, Session

BATCH = 64  # texts of a pass
PROMPTS = 1024  # embedded before they are averaged
NUM_TEXTS_SHOWN = 3  # in the error for an unknown text


class Texts(ABC):
    """N texts to unit embeddings [N, D]."""

    embed_dim: int

    def __call__(self, texts: Any) -> np.ndarray:
        """Embeds texts.

        Args:
            texts: One, or an iterable of them.

        Returns:
            float32 [N, D], unit length.

        Raises:
            ConfigError: What is no text, no text at all, or one that a table does not have.
        """
        listed = text_list(texts)
        if not listed:
            raise ConfigError("no text was given; give at least one")
        return self._embed(listed)

    def class_embeddings(self, class_names: Any, templates: Any) -> np.ndarray:
        """Zero-shot classifier weights by prompt ensembling (CLIP, section 3.1.4).

        Args:
            class_names: K names, or a mapping whose values are names (see
                `kdeov.prompts.class_prompts`).
            templates: T prompts with one `{}` each, or the name of a set of `kdeov.prompts`.

        Returns:
            float32 [K, D], unit length: per class, the mean of its unit prompt embeddings,
            normalized again.

        Raises:
            ConfigError: Names or templates that name nothing.
        """
        names, templates = class_prompts(class_names), as_templates(templates)
        classes = np.empty((len(names), self.embed_dim), np.float32)
        step = max(1, PROMPTS // len(templates))
        for start in range(0, len(names), step):
            group = names[start : start + step]
            prompts = [template.format(name) for name in group for template in templates]
            embeddings = self._embed(prompts).reshape(len(group), len(templates), -1)
            classes[start : start + step] = unit(embeddings.mean(axis=1))
        return classes

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """At least one text to float32 [N, D], unit length."""


class TextTower(Texts):
    """A text tower in onnxruntime, compared with its golden outputs when it is opened.

    Args:
        folder: The export.
        card: Of that folder.
        providers: See `Session`.
        threads: See `Session`.

    Raises:
        ConfigError: A package or a provider is missing.
        DataError: A file is missing or damaged, or its outputs are others than at export.
    """

    def __init__(
        self, folder: Path, card: Card, providers: Providers = None, threads: int | None = None
    ):
        from kdeov.runtime.tokenizer import open_tokenizer  # its packages are slow to import

        settings = card.text.tokenizer
        if settings is None:
            raise DataError(f"{folder / CARD}: a text tower without a tokenizer; {FIX}")
        name = BPE if settings.kind == CLIP_BPE else HF_TOKENIZER
        self.embed_dim = card.embed_dim
        self._tokenize = open_tokenizer(require_file(folder, card, name), settings)
        path = require_file(folder, card, TEXT)
        self._session = Session(path, ["text_embedding"], providers, threads)
        texts, tokens, embeddings = read_golden(folder, card, "texts", "tokens", "text_embedding")
        (found,) = self._session(tokens=tokens)
        require_equal_embeddings(found, embeddings, self._session)
        self._tokenize.warned_of_cuts = True  # one of the golden texts is cut
        again = self._tokenize(texts.tolist())
        self._tokenize.warned_of_cuts = False
        if not np.array_equal(again, tokens):
            raise DataError(
                f"{folder / name}: gives other tokens than at export; {FIX}, or install the "
                "versions of ftfy and regex that exported it"
            )

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        embeddings = np.empty((len(texts), self.embed_dim), np.float32)
        for start in range(0, len(texts), BATCH):
            tokens = self._tokenize(texts[start : start + BATCH])
            (embeddings[start : start + BATCH],) = self._session(tokens=tokens)
        return embeddings


class TextTable(Texts):
    """Texts with embeddings that were computed elsewhere and are looked up.

    Args:
        folder: The export.
        card: Of that folder.

    Raises:
        DataError: A file is missing or damaged.
    """

    def __init__(self, folder: Path, card: Card):
        texts, embeddings = (
            require_file(folder, card, name) for name in (TABLE_TEXTS, TABLE_EMBEDDINGS)
        )
        try:
            self.texts: list[str] = json.loads(texts.read_text(encoding="utf-8"))
            self._embeddings = np.load(embeddings, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder}: unreadable texts ({first_line(error)}); {FIX}") from error
        if self._embeddings.shape != (len(self.texts), card.embed_dim):
            raise DataError(
                f"{embeddings}: shape {self._embeddings.shape} for {len(self.texts)} texts of "
                f"{card.embed_dim} dimensions; {FIX}"
            )
        self.embed_dim = card.embed_dim
        self._folder = folder
        # of texts that are listed twice, the first counts
        self._rows = {text: row for row, text in reversed(list(enumerate(self.texts)))}

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._embeddings[[self._row(text) for text in texts]]

    def _row(self, text: str) -> int:
        listed = text if text in self._rows else self._spellings.get(normalize_text(text))
        if listed is None:
            known = ", ".join(repr(text) for text in self.texts[:NUM_TEXTS_SHOWN]) or "none"
            raise ConfigError(
                f"the text {text!r} has no embedding: {self._folder} has no text tower, only "
                f"{len(self.texts)} texts ({known}, ...); choose other templates and class names, "
                "or add the text to teacher.embeddings.texts and export again"
            )
        return self._rows[listed]

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Texts of the table by their one spelling: other spaces or another Unicode form."""
        return {normalize_text(text): text for text in self.texts}


def open_texts(
    folder: Path, card: Card, providers: Providers = None, threads: int | None = None
) -> Texts:
    """Opens the text side of an export; see `TextTower` and `TextTable`.

    Raises:
        DataError: The card names another kind.
    """
    if card.text.kind == TOWER:
        return TextTower(folder, card, providers, threads)
    if card.text.kind == TABLE:
        return TextTable(folder, card)
    raise DataError(f"{folder / CARD}: texts of kind {card.text.kind!r} are unknown; {FIX}")


def text_list(texts: Any) -> list[str]:
    """Texts as callers give them: one, or an iterable in order.

    Raises:
        ConfigError: Something that is no text.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping | Set):
        raise ConfigError(f"texts are of type {type(texts).__name__}; give a list of texts")
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise ConfigError(
                f"text {number} is of type {type(text).__name__}; give a list of texts"
            )
    return listed


def given_embeddings(values: Any, dim: int) -> np.ndarray | None:
    """Unit embeddings [K, dim] that a caller has made already; None for names and texts.

    Raises:
        ConfigError: They are of another width, none, or not finite.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return None
    if values.shape[1:] != (dim,) or not len(values):
        raise ConfigError(f"embeddings of texts of shape {values.shape}; give [K, {dim}]")
    if not np.isfinite(values).all():
        raise ConfigError("embeddings of texts that are not finite; compute them again")
    return unit(values)
