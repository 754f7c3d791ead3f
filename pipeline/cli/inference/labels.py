"""Class embeddings of the labels that a command names, cached on disk: a second call with the same
labels loads no text tower.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, StorageError, first_line
from kdeov.prompts import as_templates, class_prompts
from kdeov.weights.digests import digest
from pipeline.cli.inference.models import InferenceModel
from pipeline.storage.files import writing

logger = logging.getLogger(__name__)

MAX_CACHED = 256  # lists of labels; the oldest are deleted
LENGTH_TOLERANCE = 1e-3  # of a unit embedding that was read from the cache


def given_labels(labels: str | None, file: Path | None) -> list[str]:
    """Labels as the command line gives them.

    Args:
        labels: Separated by commas.
        file: UTF-8, a label a line; a label may hold commas.

    Raises:
        ConfigError: Neither or both are given, they name nothing, or one stands twice.
    """
    if (labels is None) == (file is None):
        raise ConfigError('give either --labels "cat, dog" or --labels-file FILE')
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(f"--labels-file {file}: {reason}; give a label a line") from error
        found = [line.strip() for line in lines]
    else:
        found = [part.strip() for part in (labels or "").replace("\n", " ").split(",")]
    found = [label for label in found if label]
    if not found:
        place = f"--labels-file {file}" if file is not None else "--labels"
        raise ConfigError(f"{place} names no label; give at least one")
    seen: set[str] = set()
    for label in found:
        if label in seen:
            raise ConfigError(f"the label {label!r} is given twice; remove one")
        seen.add(label)
    return found


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
    model: InferenceModel, labels: Sequence[str], templates: Sequence[str] | str | None
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
    content = {"text": model.text_digest, "labels": list(names), "templates": prompts}
    path = cache_folder() / f"{digest(content)}.npy"
    if (cached := _read(path, (len(names), model.embed_dim))) is not None:
        return cached
    embeddings = model.class_embeddings(labels, prompts)
    try:
        with writing(path) as file:
            np.save(file, embeddings, allow_pickle=False)
        _prune(path.parent)
    except StorageError as error:
        logger.warning("labels are not cached: %s", first_line(error))
    return embeddings


def cache_folder() -> Path:
    """Folder of cached class embeddings, in the cache of the user (`XDG_CACHE_HOME`)."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdeov", appauthor=False)) / "labels"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # not there, or damaged: it is made again
    whole = values.shape == shape and values.dtype == np.float32
    if not whole or np.abs(np.linalg.norm(values, axis=1) - 1).max() > LENGTH_TOLERANCE:
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return values


def _prune(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may delete the same files
        files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_CACHED:]:
            file.unlink(missing_ok=True)
