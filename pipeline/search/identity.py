"""The identity of an index: which model made its rows, and so which models may search it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from kdeov.errors import DataError, first_line
from kdeov.weights.digests import with_digest, without_digest
from pipeline.storage.files import write_json

IDENTITY = "identity.json"
FORMAT = 1
FIX = "build it again with `kdeov index --rebuild`"
DIGITS = 8  # of a digest that a message shows


@dataclass(frozen=True)
class IndexIdentity:
    """Everything that the rows of an index depend on beside its images.

    Attributes:
        image_digest: Digest of what embedded the images.
        text_space: Digest of the texts that are compared with them.
        embed_dim: Width of the joint space, D.
        made_with: Name of the model, for people.
        objects: Digest of what found the regions of images; None without regions.
    """

    image_digest: str
    text_space: str
    embed_dim: int
    made_with: str
    objects: str | None = None


class HasSpaces(Protocol):
    """A model that embeds images and texts (see `pipeline.inference.models.InferenceModel`)."""

    embed_dim: int
    image_digest: str
    text_digest: str


def require_same_model(
    identity: IndexIdentity, model: HasSpaces, images: bool = True, where: str = "the index"
) -> None:
    """Refuses a model whose embeddings mean nothing beside the rows of an index.

    Args:
        identity: Of the index.
        model: Embeds queries.
        images: Whether queries are images too; texts alone need the same text space only.
        where: The index, for errors.

    Raises:
        DataError: The model is another one; the message names both.
    """
    if identity.embed_dim != model.embed_dim or identity.text_space != model.text_digest:
        raise DataError(
            f"{where}: made with {identity.made_with}, whose text space is "
            f"{identity.text_space[:DIGITS]} of {identity.embed_dim} dimensions; this model has "
            f"{model.text_digest[:DIGITS]} of {model.embed_dim}; choose --model, or run `kdeov "
            "index --rebuild`"
        )
    if images and identity.image_digest != model.image_digest:
        raise DataError(
            f"{where}: made with {identity.made_with}, whose images are embedded by "
            f"{identity.image_digest[:DIGITS]}; this model embeds them by "
            f"{model.image_digest[:DIGITS]}; choose --model, or run `kdeov index --rebuild`"
        )


def write_identity(folder: Path, identity: IndexIdentity, rows: str) -> None:
    """Writes `identity.json` of an index, at once and whole.

    Args:
        folder: The index.
        identity: Of its rows.
        rows: Name of the folder within, which holds them.

    Raises:
        StorageError: The folder cannot be written.
    """
    values = {"format": FORMAT, "rows": rows, **asdict(identity)}
    write_json(folder / IDENTITY, with_digest(values))


def read_identity(folder: Path) -> tuple[IndexIdentity, str]:
    """The identity of an index, and the name of the folder of its rows.

    Raises:
        DataError: There is no index, or the file is damaged or of another version.
    """
    path = folder / IDENTITY
    if not path.is_file():
        found = f"not an index (no {IDENTITY})" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {found}; `kdeov index FOLDER -o INDEX` makes one")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check the folder") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); {FIX}") from error
    values = without_digest(values, path, FIX)
    if values.get("format") != FORMAT:
        raise DataError(
            f"{path}: format {values.get('format')!r}, this version reads {FORMAT}; {FIX}"
        )
    try:
        known = {entry.name: values[entry.name] for entry in fields(IndexIdentity)}
        rows = values["rows"]
    except LookupError as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); {FIX}") from error
    if not isinstance(rows, str) or not rows or Path(rows).name != rows:
        raise DataError(f"{path}: names the folder {rows!r}; {FIX}")
    return IndexIdentity(**known), rows
