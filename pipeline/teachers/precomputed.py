"""A teacher of embeddings computed elsewhere: `teacher.source: embeddings`.

It has one embedding per image and no towers. Params hold the rule by which an image finds its
embedding; an image without one is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from kdeov.errors import DataError
from kdeov.text.base import DESCRIPTION, TENSORS
from kdeov.text.table import PrecomputedTextEncoder
from pipeline.artifacts.identity import IDENTITY
from pipeline.artifacts.texts import file_name
from pipeline.storage.checked import read_record
from pipeline.storage.files import digest, sha256_file
from pipeline.teachers.embedding_table import EmbeddingTable

IMAGES, CAPTIONS = "images", "captions"


@dataclass(frozen=True)
class PrecomputedIdentity:
    """Everything that a precomputed teacher's embeddings depend on.

    Attributes:
        library: `PRECOMPUTED`.
        name: Name of the model that computed the embeddings.
        weights_sha256: Digest of all embeddings and keys.
        embed_dim: Width of the embeddings.
        captions: Whether captions have embeddings too.
        match: See `EmbeddingsParams`.
        prefix: See `EmbeddingsParams`.
        example: A key, for errors.
        splits_without_embeddings: Splits whose images have no embeddings.
    """

    library: str
    name: str
    weights_sha256: str
    embed_dim: int
    captions: bool
    match: str
    prefix: str
    example: str
    splits_without_embeddings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


class PrecomputedTeacher:
    """A teacher that `make_precomputed` wrote.

    Args:
        folder: Folder of the teacher.

    Attributes:
        text: Class names and other texts, with their embeddings.

    Raises:
        DataError: Files are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._identity = read_record(PrecomputedIdentity, folder / IDENTITY, "teacher")
        if tables_digest(folder) != self.weights_sha256:
            raise DataError(
                f"{folder}: its files are not those of {IDENTITY}; run `dvc repro -f teacher`"
            )
        try:
            self._images = EmbeddingTable(folder, IMAGES)
            self._captions = EmbeddingTable(folder, CAPTIONS) if self._identity.captions else None
            self.text = PrecomputedTextEncoder.load(folder)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise DataError(
                f"{folder}: no precomputed teacher ({error}); run `dvc repro -f teacher`"
            ) from error

    @property
    def name(self) -> str:
        """Name of the model that computed the embeddings."""
        return self._identity.name

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self._images.dim

    @property
    def weights_sha256(self) -> str:
        """Digest of all embeddings and keys."""
        return self._identity.weights_sha256

    def identity(self) -> PrecomputedIdentity:
        """The saved identity."""
        return self._identity

    def image_embeddings(self, samples: Sequence[dict[str, Any]]) -> np.ndarray:
        """Looks up the unit embeddings of images.

        Args:
            samples: N descriptions, each with the `key` and `source` of the image.

        Returns:
            float16 [N, D].

        Raises:
            DataError: Images have no embedding; counts them and names the first.
        """
        names = [self._key(sample) for sample in samples]
        rows = self._images.rows(names)
        if (missing := np.flatnonzero(rows < 0)).size:
            first = samples[int(missing[0])]
            raise DataError(
                f"{len(missing)} of {len(rows)} images have no embedding in teacher.embeddings, "
                f"the first is {names[int(missing[0])]!r} (image {first['source']}); its keys look "
                f"like {self._identity.example!r}: check teacher.embeddings.match and prefix, "
                "or list the split in `splits_without_embeddings`"
            )
        return self._images.embeddings[rows]

    def _key(self, sample: dict[str, Any]) -> str:
        """The key that an image has in the table."""
        match = self._identity.match
        return self._row(sample) if match == "row" else file_name(sample[match])

    def _row(self, sample: dict[str, Any]) -> str:
        """Row number of an image, which its source holds: `test_x/503`."""
        source, prefix = str(sample["source"]), self._identity.prefix
        row = source.removeprefix(prefix)
        if not source.startswith(prefix) or not row.isdigit():
            raise DataError(
                f"teacher.embeddings.match is `row` and prefix is {prefix!r}: the image {source} "
                "is no such row; set prefix to the name of the array, `test_x/` say, list the "
                "split in `splits_without_embeddings`, or match by key or source"
            )
        return str(int(row))

    def caption_embeddings(self, captions: Sequence[str]) -> np.ndarray:
        """Looks up unit embeddings of captions, float16 [N, D]; N is 0 for a teacher without
        captions.

        Raises:
            DataError: A caption has no embedding.
        """
        if self._captions is None:
            return np.empty((0, self.embed_dim), np.float16)
        rows = self._captions.rows(captions)
        if (missing := np.flatnonzero(rows < 0)).size:
            raise DataError(
                f"{len(missing)} of {len(rows)} captions have no embedding in teacher.embeddings, "
                f"the first is {captions[int(missing[0])]!r}; set teacher.embeddings.captions to "
                "null, or compute them"
            )
        return self._captions.embeddings[rows]


def tables_digest(folder: Path) -> str:
    """Digest of the files of a teacher's tables."""
    names = [f"{table}{end}" for table in (IMAGES, CAPTIONS) for end in (".npy", ".index.npy")]
    files = [folder / name for name in (*names, TENSORS, DESCRIPTION)]
    return digest({path.name: sha256_file(path) for path in files if path.is_file()})
