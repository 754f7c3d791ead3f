"""Indexes of tars in a bucket, kept, as making one reads the whole tar."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple

from kdeov.errors import DataError
from pipeline.prepare.readers.tars.sample_index import Ignored, Indexed
from pipeline.storage.checked import fix_of, read_checked, write_checked
from pipeline.storage.files import digest
from pipeline.storage.storage import Storage

logger = logging.getLogger(__name__)

INDEX_VERSION = 1  # of the way in which samples are found; raise it when other samples are
FOLDER = "tar_indexes"

TarIndex = tuple[list[Indexed], Ignored]


def kept_index(
    cache: Storage | None,
    where: str,
    version: str,
    make: Callable[[], TarIndex],
    unchanged: Callable[[], bool],
) -> TarIndex:
    """The index of a tar: the one that was kept, or a new one, which is kept.

    Args:
        cache: Keeps indexes as `tar_indexes/DIGEST`; None keeps none.
        where: Address of the tar.
        version: Changes with its bytes.
        make: Makes the index.
        unchanged: Whether the tar still has that version, once its index is made; if not, the index
            is not kept.

    Raises:
        StorageError: The cache cannot be read or written.
    """
    if cache is None:
        return make()
    name = f"{FOLDER}/{digest([INDEX_VERSION, where, version])}"
    try:
        return _decode(bytes(read_checked(cache, name, fix_of(None))))
    except FileNotFoundError:
        pass
    except DataError as error:
        logger.warning("%s; reading the tar again", error)
    index = make()
    if unchanged():
        write_checked(cache, name, _encode(index))
    return index


def _encode(index: TarIndex) -> bytes:
    entries, ignored = index
    values = [[astuple(entry) for entry in entries], ignored.counts, ignored.examples]
    return zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 1)


def _decode(data: bytes) -> TarIndex:
    entries, counts, examples = json.loads(zlib.decompress(data))
    return [Indexed(*entry) for entry in entries], Ignored(Counter(counts), examples)
