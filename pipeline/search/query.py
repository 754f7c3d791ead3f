"""Queries of a search as unit embeddings: texts, images, and what they should not show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.weights.folder import user_path
from pipeline.inference.labels import label_embeddings
from pipeline.search.identity import require_same_model
from pipeline.search.index import Index
from pipeline.search.model import SearchModel

AS_WRITTEN = ("{}",)  # a query is a sentence, no name of a class
NOTHING = 1e-3  # length of a sum whose direction is an accident


def query_embedding(plus: np.ndarray, minus: np.ndarray | None = None) -> np.ndarray:
    """The sum of what is wanted less that of what is not, as a unit embedding.

    Args:
        plus: Unit embeddings of what is wanted, [P, D].
        minus: Of what is not, [M, D]; None is nothing.

    Returns:
        float32 [D].

    Raises:
        ConfigError: Nothing is left of it.
    """
    total = np.atleast_2d(plus).astype(np.float64).sum(axis=0)
    if minus is not None:
        total -= np.atleast_2d(minus).astype(np.float64).sum(axis=0)
    length = float(np.linalg.norm(total))
    if not length > NOTHING:
        raise ConfigError("the query cancels out; give other texts or images")
    return (total / length).astype(np.float32)


def text_embeddings(
    model: SearchModel, texts: Sequence[str], templates: Sequence[str] | str | None = None
) -> np.ndarray:
    """Unit embeddings float32 [N, D] of texts, cached in the user's cache as those of labels.

    Args:
        model: Embeds them.
        texts: N texts.
        templates: Prompts that they are put into; None takes them as they are.

    Raises:
        KdeovError: A text that says nothing, or one that the model cannot embed.
    """
    return label_embeddings(model, texts, AS_WRITTEN if templates is None else templates)


def like_embedding(index: Index, model: SearchModel | None, image: str) -> np.ndarray:
    """The unit embedding float32 [D] of an image: the row of one that the index has, else the
    model's.

    Args:
        index: That is searched.
        model: Embeds other images; None where there is none.
        image: A path or, for an index of shards, a key.

    Raises:
        DataError: There is no such image, or the index is of another model.
    """
    if (row := _own(index, image)) is not None:
        return row
    path = user_path(image)
    if index.root is None and not path.is_file():
        raise DataError(f"--like {image}: neither a key of {index.folder} nor an image file")
    if model is None:
        raise DataError(f"--like {image}: no image of {index.folder}, and there is no model for it")
    require_same_model(index.identity, model, where=str(index.folder))
    return model.opened.embed_pixels(model.opened.preprocess(path)[None])[0]


def _own(index: Index, image: str) -> np.ndarray | None:
    """The row of an image of the index that has not changed since."""
    if index.root is None:
        return index.embedding(image)
    path = user_path(image).absolute()
    for name in (path, path.resolve()):
        if not name.is_relative_to(index.root):
            continue
        inside = Path(name).relative_to(index.root).as_posix()
        if index.files.is_unchanged(inside, path):
            return index.embedding(inside)
    return None
