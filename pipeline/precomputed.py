"""The teacher whose vectors someone has computed already: `teacher.source: embeddings`.

It has one vector a picture and no towers. Where a picture finds its vector is said in params, and a
picture without one is an error, never a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import KdeovError
from kdeov.text_table import TextTable
from pipeline.files import digest, read_json, sha256_file
from pipeline.vector_table import VectorTable

LIBRARY = "embeddings"
PICTURES, CAPTIONS = "pictures", "captions"
IDENTITY = "identity.json"


@dataclass(frozen=True)
class PrecomputedIdentity:
    """What a precomputed teacher's vectors depend on.

    Attributes:
        library: `LIBRARY`.
        name: Of the model that computed the vectors.
        weights_sha256: The digest of all vectors and keys.
        embed_dim: Their width.
        captions: Whether captions have vectors too.
        match: See `EmbeddingsParams`.
        example: A key, for messages.
        without: Splits whose pictures have no vectors.
    """

    library: str
    name: str
    weights_sha256: str
    embed_dim: int
    captions: bool
    match: str
    example: str
    without: list[str]

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
        self._identity = PrecomputedIdentity(**read_json(folder / IDENTITY, "teacher"))
        self._pictures = VectorTable(folder, PICTURES)
        self._captions = VectorTable(folder, CAPTIONS) if self._identity.captions else None
        self.text = TextTable.load(folder)

    @property
    def name(self) -> str:
        """Of the model that computed the vectors."""
        return self._identity.name

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space."""
        return self._pictures.dim

    @property
    def weights_sha256(self) -> str:
        """The digest of all vectors and keys."""
        return tables_digest(self.folder)

    def identity(self) -> PrecomputedIdentity:
        """What its vectors depend on; the files are digested anew."""
        return replace(self._identity, weights_sha256=self.weights_sha256)

    def picture_vectors(self, samples: Sequence[dict[str, Any]]) -> np.ndarray:
        """The unit vectors of pictures.

        Args:
            samples: N descriptions, each with the `key` and `source` of the picture.

        Returns:
            float16 [N, D].

        Raises:
            KdeovError: Pictures have no vector; counts them and names the first.
        """
        match = self._identity.match
        names = [_row_name(sample) if match == "row" else sample[match] for sample in samples]
        rows = self._pictures.rows(names)
        if (missing := np.flatnonzero(rows < 0)).size:
            first = samples[int(missing[0])]
            raise KdeovError(
                f"{len(missing)} of {len(rows)} pictures have no vector in teacher.embeddings, the "
                f"first is {names[int(missing[0])]!r} (picture {first['source']}); its keys look "
                f"like {self._identity.example!r}: check teacher.embeddings.match and prefix, "
                "or list the split in `without`"
            )
        return self._pictures.vectors[rows]

    def caption_vectors(self, captions: Sequence[str]) -> np.ndarray:
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
    files = sorted(path for path in folder.iterdir() if path.name != IDENTITY)
    return digest({path.name: sha256_file(path) for path in files})


def _row_name(sample: dict[str, Any]) -> str:
    row = str(sample["source"]).rpartition("/")[2]
    if not row.isdigit():
        raise KdeovError(
            f"teacher.embeddings.match is `row`, and the picture {sample['source']} is no row of "
            "an array; match by key or source, with metadata"
        )
    return str(int(row))
