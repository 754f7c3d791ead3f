"""The teacher whose vectors someone has computed already: `teacher.source: embeddings`.

It has one vector an image and no towers. Where an image finds its vector is said in params, and a
image without one is an error, never a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from kdeov.errors import KdeovError
from kdeov.text.base import DESCRIPTION, TENSORS
from kdeov.text.table import PrecomputedTextEncoder
from pipeline.artifacts.identity import IDENTITY
from pipeline.storage.files import digest, read_json, sha256_file
from pipeline.teachers.embedding_table import EmbeddingTable

IMAGES, CAPTIONS = "images", "captions"


@dataclass(frozen=True)
class PrecomputedIdentity:
    """What a precomputed teacher's vectors depend on.

    Attributes:
        library: `PRECOMPUTED`.
        name: Of the model that computed the vectors.
        weights_sha256: The digest of all vectors and keys.
        embed_dim: Their width.
        captions: Whether captions have vectors too.
        match: See `EmbeddingsParams`.
        prefix: The same.
        example: A key, for messages.
        splits_without_embeddings: Splits whose images have no vectors.
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
    """What `make_precomputed` wrote.

    Args:
        folder: Of the teacher.

    Attributes:
        text: The class names and other texts that it knows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._identity = PrecomputedIdentity(**read_json(folder / IDENTITY, "teacher"))
            self._images = EmbeddingTable(folder, IMAGES)
            self._captions = EmbeddingTable(folder, CAPTIONS) if self._identity.captions else None
            self.text = PrecomputedTextEncoder.load(folder)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise KdeovError(
                f"{folder}: no teacher of given vectors ({error}); run `dvc repro -f teacher`"
            ) from error

    @property
    def name(self) -> str:
        """Of the model that computed the vectors."""
        return self._identity.name

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self._images.dim

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of all vectors and keys."""
        return tables_digest(self.folder)

    def identity(self) -> PrecomputedIdentity:
        """What its vectors depend on; the digest is of the files as they are."""
        return replace(self._identity, weights_sha256=self.weights_sha256)

    def image_embeddings(self, samples: Sequence[dict[str, Any]]) -> np.ndarray:
        """The unit vectors of images.

        Args:
            samples: N descriptions, each with the `key` and `source` of the image.

        Returns:
            float16 [N, D].

        Raises:
            KdeovError: Images have no vector; counts them and names the first.
        """
        match = self._identity.match
        names = [self._row(sample) if match == "row" else sample[match] for sample in samples]
        rows = self._images.rows(names)
        if (missing := np.flatnonzero(rows < 0)).size:
            first = samples[int(missing[0])]
            raise KdeovError(
                f"{len(missing)} of {len(rows)} images have no vector in teacher.embeddings, the "
                f"first is {names[int(missing[0])]!r} (image {first['source']}); its keys look "
                f"like {self._identity.example!r}: check teacher.embeddings.match and prefix, "
                "or list the split in `without`"
            )
        return self._images.vectors[rows]

    def _row(self, sample: dict[str, Any]) -> str:
        """The number of the row that an image is, as its source names it: `test_x/503`."""
        source, prefix = str(sample["source"]), self._identity.prefix
        row = source.removeprefix(prefix)
        if not source.startswith(prefix) or not row.isdigit():
            raise KdeovError(
                f"teacher.embeddings.match is `row` and prefix is {prefix!r}: the image {source} "
                "is no such row; set prefix to the name of the array, `test_x/` say, list the "
                "split in `without`, or match by key or source"
            )
        return str(int(row))

    def caption_embeddings(self, captions: Sequence[str]) -> np.ndarray:
        """The unit vectors of captions, float16 [N, D]; N is 0 for a teacher without captions.

        Raises:
            KdeovError: A caption has no vector.
        """
        if self._captions is None:
            return np.empty((0, self.embed_dim), np.float16)
        rows = self._captions.rows(captions)
        if (missing := np.flatnonzero(rows < 0)).size:
            raise KdeovError(
                f"{len(missing)} of {len(rows)} captions have no vector in teacher.embeddings, the "
                f"first is {captions[int(missing[0])]!r}; set teacher.embeddings.captions to null, "
                "or compute them"
            )
        return self._captions.vectors[rows]


def tables_digest(folder: Path) -> str:
    """The digest of the files of a teacher's tables."""
    names = [f"{table}{end}" for table in (IMAGES, CAPTIONS) for end in (".npy", ".index.npy")]
    files = [folder / name for name in (*names, TENSORS, DESCRIPTION)]
    return digest({path.name: sha256_file(path) for path in files if path.is_file()})
