"""Class embeddings of the labels that a command names, cached on disk: a second call with the same
labels loads no text tower.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from kdeov.errors import ConfigError, StorageError, first_line
from kdeov.prompts import as_templates, class_prompts, normalize_text
from kdeov.weights.digests import digest
from pipeline.storage.files import writing

logger = logging.getLogger(__name__)

UNUSABLE, SPACES = ("Cc", "Cs"), "\t\n\r\v\f\x85"  # categories of Unicode: controls, surrogates
SHA256_BYTES = 32
MAX_CACHED = 256  # lists of labels; the oldest are deleted


class TextModel(Protocol):
    """A model that embeds texts; see `pipeline.inference.models.InferenceModel`."""

    embed_dim: int
    text_digest: str
    templates: tuple[str, ...]

    def class_embeddings(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """K labels to unit embeddings float32 [K, D], by prompt ensembling."""


def given_labels(
    labels: str | None, file: Path | None, option: str = "--labels", noun: str = "label"
) -> list[str]:
    """Labels as the command line gives them.

    Args:
        labels: Separated by commas.
        file: UTF-8, a label a line; a label may hold commas.
        option: The option of `labels`, for errors; with `-file` it is that of `file`.
        noun: Word for a label, for errors.

    Raises:
        ConfigError: Neither or both are given, they name nothing, or one stands twice.
    """
    if (labels is None) == (file is None):
        raise ConfigError(f'give either {option} "cat, dog" or {option}-file FILE')
    if file is not None:
        try:
            lines = re.split(r"\r\n|\r|\n", file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(f"{option}-file {file}: {reason}; give a {noun} a line") from error
        found = [line.strip() for line in lines]
    else:
        found = [" ".join(part.split()) for part in (labels or "").split(",")]
    found = [label for label in found if label]
    if not found:
        place = f"{option}-file {file}" if file is not None else option
        raise ConfigError(f"{place} names no {noun}; give at least one")
    seen: set[str] = set()
    for label in found:
        require_text(label, noun)
        if (name := normalize_text(label)) in seen:
            raise ConfigError(f"the {noun} {label!r} is given twice; remove one")
        seen.add(name)
    return found


def require_text(text: str, noun: str = "text") -> None:
    """Refuses what no tokenizer reads: control characters, and bytes that were not UTF-8.

    Raises:
        ConfigError: The text holds one.
    """
    if any(unicodedata.category(char) in UNUSABLE for char in text if char not in SPACES):
        raise ConfigError(f"the {noun} {text!r} holds a character that is no text; remove it")


def chosen_templates(given: Sequence[str] | None) -> Sequence[str] | str | None:
    """Prompts of the option `--templates`: prompts with `{}`, or the name of a set; None without
    the option.

    Raises:
        ConfigError: A prompt without `{}`, or an unknown set.
    """
    if not given:
        return None
    chosen = given[0] if len(given) == 1 and "{" not in given[0] else given
    return as_templates(chosen)


def label_embeddings(
    model: TextModel, labels: Sequence[str], templates: Sequence[str] | str | None
) -> np.ndarray:
    """Class embeddings of labels, from the cache or from the model's text side.

    Args:
        model: Embeds texts.
        labels: K labels.
        templates: Prompts; None takes the model's.

    Returns:
        float32 [K, D], of unit length.

    Raises:
        KdeovError: Labels or templates name nothing, or the text side cannot embed them.
    """
    names = class_prompts(labels)
    prompts = list(as_templates(model.templates if templates is None else templates))
    for text in (*names, *prompts):
        require_text(text)
    key = {"text": model.text_digest, "labels": names, "templates": prompts}
    path = cache_folder() / f"{digest(key)}.npy"
    if (cached := _read(path, (len(names), model.embed_dim))) is not None:
        return cached
    embeddings = model.class_embeddings(labels, prompts)
    try:
        content = io.BytesIO()
        np.save(content, embeddings, allow_pickle=False)
        with writing(path) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
        _prune(path.parent)
    except StorageError as error:
        logger.warning("labels are not cached: %s", first_line(error))
    return embeddings


def cache_folder() -> Path:
    """Folder of cached class embeddings, in the cache of the user (`XDG_CACHE_HOME`)."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdeov", appauthor=False)) / "labels"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """A cached array [K, D], which its sha256 follows; None where it is missing or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content, sha256 = stored[:-SHA256_BYTES], stored[-SHA256_BYTES:]
    if hashlib.sha256(content).digest() != sha256:
        return None
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):  # of another version
        return None
    if values.shape != shape or values.dtype != np.float32:
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return values


def _prune(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may delete the same files
        files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_CACHED:]:
            file.unlink(missing_ok=True)
