"""Writes the tables of a `PrecomputedTeacher` from the files that hold the embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdeov.errors import DataError
from kdeov.text.table import PrecomputedTextEncoder
from pipeline.artifacts.identity import PRECOMPUTED, write_teacher_identity
from pipeline.artifacts.tables import reading, table_rows
from pipeline.artifacts.texts import class_name, clean_caption, file_name
from pipeline.config.teacher_params import EmbeddingsParams, TextEmbeddingsParams
from pipeline.console import progress
from pipeline.teachers.embedding_files import numbered_files, read_embeddings, unit_rows
from pipeline.teachers.embedding_table import write_table
from pipeline.teachers.precomputed import CAPTIONS, IMAGES, PrecomputedIdentity, tables_digest

logger = logging.getLogger(__name__)

PARAMS_KEY = "teacher.embeddings"


def make_precomputed(params: EmbeddingsParams, path: Path, folder: Path) -> dict[str, Any]:
    """Checks the embeddings, and writes them with an index of their keys.

    Args:
        params: Files, and the rule by which an image finds its embedding.
        path: Folder of the files.
        folder: Folder to write.

    Returns:
        The identity of the teacher.

    Raises:
        DataError: Files are missing or do not fit together, or an embedding is zero or not finite.
    """
    metadata = {} if params.metadata is None else numbered_files(path, params.metadata, PARAMS_KEY)
    example = "0"
    parts = _parts(path, params.images, metadata)
    dim = parts[0].shape[1]
    if metadata:
        tables = list(metadata.values())
        keys = _keys(tables, params, parts)
        example = next(_keys(tables, params, parts), "")
    else:
        keys = iter(map(str, range(sum(map(len, parts)))))
    repeated = write_table(folder, IMAGES, keys, _blocks(IMAGES, parts), _count(parts), dim)
    logger.info("%d embeddings of %d dimensions, %d of them repeated", _count(parts), dim, repeated)
    if params.captions is not None:
        texts = _parts(path, params.captions, metadata)
        if texts[0].shape[1] != dim:
            raise DataError(
                f"{path / params.captions}: {texts[0].shape[1]} dimensions, the images have "
                f"{dim}; take both from one model"
            )
        column = _column(list(metadata.values()), params.caption_column or "", texts)
        # as `prepare` cleans them; it stores no empty caption, so none is looked up
        captions = (clean_caption(text) or None for _, _, text in column)
        write_table(folder, CAPTIONS, captions, _blocks(CAPTIONS, texts), _count(texts), dim)
    _text_table(params.texts, path, dim).save(folder)
    identity = PrecomputedIdentity(
        library=PRECOMPUTED,
        name=params.name,
        weights_sha256=tables_digest(folder),
        embed_dim=dim,
        captions=params.captions is not None,
        match=params.match,
        prefix=params.prefix,
        example=example,
        splits_without_embeddings=sorted(params.splits_without_embeddings),
    ).to_dict()
    write_teacher_identity(folder, identity)
    return identity


def _parts(path: Path, pattern: str, metadata: dict[str, Path]) -> list[np.ndarray]:
    named = numbered_files(path, pattern, PARAMS_KEY)
    if metadata and named.keys() != metadata.keys():
        alone = {**metadata, **named}[min(named.keys() ^ metadata.keys())]
        raise DataError(
            f"{alone}: one of a pair of embeddings and metadata, and the other is missing; "
            f"check {PARAMS_KEY}.images and metadata"
        )
    files = list(named.values())
    parts = [read_embeddings(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.shape[1] != parts[0].shape[1]:
            raise DataError(
                f"{file}: {part.shape[1]} dimensions, {files[0].name} has {parts[0].shape[1]}; "
                "take all parts from one model"
            )
    return parts


def _count(parts: list[np.ndarray]) -> int:
    return sum(map(len, parts))


def _blocks(name: str, parts: list[np.ndarray]) -> Iterator[np.ndarray]:
    with progress(f"read {name}", _count(parts), "embeddings") as bar:
        for number, part in enumerate(parts):
            for block in unit_rows(part, f"{name}, part {number}"):
                yield block
                bar.update(len(block))


def _keys(metadata: list[Path], params: EmbeddingsParams, parts: list[np.ndarray]) -> Iterator[str]:
    """The key of each embedding."""
    for file, row, value in _column(metadata, params.key_column or "", parts):
        if not value:
            raise DataError(f"{file}: row {row} has no {params.key_column}; fill it in")
        name = value.removeprefix(params.prefix)
        # the prefix may lack its last slash
        yield file_name(name.lstrip("/") if params.prefix else name)


def _column(
    metadata: list[Path], column: str, parts: list[np.ndarray]
) -> Iterator[tuple[Path, int, str]]:
    """File, number and text of each row of a column; a file has a row per embedding of its part."""
    for file, part in zip(metadata, parts, strict=True):
        count = 0
        for (value,) in table_rows(file, [column], f"{PARAMS_KEY}.metadata", PARAMS_KEY):
            count += 1
            yield file, count, value
        if count != len(part):
            raise DataError(
                f"{file}: {count} rows for {len(part)} embeddings; give each embedding one key"
            )


def _text_table(files: list[TextEmbeddingsParams], path: Path, dim: int) -> PrecomputedTextEncoder:
    texts: list[str] = []
    embeddings = [torch.empty(0, dim)]
    for options in files:
        read = np.concatenate(
            list(unit_rows(read_embeddings(path / options.vectors), path / options.vectors))
        )
        names = _names(path / options.names)
        if read.shape != (len(names), dim):
            raise DataError(
                f"{path / options.vectors}: {list(read.shape)} for {len(names)} names of "
                f"{options.names} and images of {dim} dimensions; take all from one model"
            )
        texts += [options.template.format(name) for name in names]
        embeddings.append(torch.from_numpy(read).float())
    return PrecomputedTextEncoder(texts, torch.cat(embeddings))


def _names(file: Path) -> list[str]:
    """Names in the order of their embeddings: lines of text, a JSON list of texts, or LVIS's list
    of categories in the order of their ids; spelled as class names are (see `class_name`).
    """
    with reading(file, f"{PARAMS_KEY}.texts"):
        text = file.read_text(encoding="utf-8-sig")
    names: Any = text.splitlines()
    if file.suffix == ".json":
        try:
            names = json.loads(text)
            if isinstance(names, list) and names and isinstance(names[0], dict):
                names = [entry["name"] for entry in sorted(names, key=lambda entry: entry["id"])]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                f"{file}: no list of names ({error}); check {PARAMS_KEY}.texts"
            ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: no list of names; check {PARAMS_KEY}.texts")
    return [class_name(name) for name in names]
