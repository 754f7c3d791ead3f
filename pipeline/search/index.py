"""An index of images: its rows, memory-mapped, its files, and the search among them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, DataError, StorageError
from kdeov.weights.folder import user_path
from pipeline.search.exact import top_rows
from pipeline.search.identity import FIX, IndexIdentity, read_identity
from pipeline.search.table import FileTable, Named
from pipeline.search.tails import ScoreTail
from pipeline.search.where import Where

EMBEDDINGS, OBJECTS, BOXES = "embeddings.f16", "objects.f16", "boxes.i32"
REGIONS = 10  # of an image; those that it does not have are NaN
HALF = 2  # bytes
FOLDER = "folder"  # kind of an index of files; others are of shards

Box = tuple[int, int, int, int]
# rows, query, k, chosen groups, groups that are left out, rows of a group; see `top_rows`
Finder = Callable[
    [np.ndarray, np.ndarray, int, np.ndarray | None, np.ndarray | None, int],
    tuple[np.ndarray, np.ndarray],
]


@dataclass(frozen=True)
class Hit:
    """An image that a search found.

    Attributes:
        path: Within the indexed folder, or the key of an image of shards.
        score: Cosine with the query.
        probability: Share of background images that score as high for this very query; None
            without a background.
        date: Of the image's EXIF data; None where there is none.
        box: Of the region that was found, left, top, right, bottom in pixels of the upright image;
            None where whole images are searched.
        row: Of the embedding.
    """

    path: str
    score: float
    probability: float | None
    date: str | None
    box: Box | None = None
    row: int = -1


class Index:
    """An index as it was when it was opened; `Index.open` opens one, and threads may share it.

    Attributes:
        folder: The index.
        identity: Of the model that made it.
        rows: float16 [N, D], unit length, memory-mapped.
        objects: float16 [N * REGIONS, D], regions of the images in their order, NaN where an image
            has fewer; None in an index without.
        boxes: int32 [N * REGIONS, 4], of the regions; None in an index without.
        files: The table of files.
        root: The indexed folder; None for shards.
        model: Address of the model that made it, as it was given; None where it was made of
            embeddings.
    """

    def __init__(self, folder: Path, data: Path, identity: IndexIdentity, files: FileTable):
        self.folder, self.data, self.identity, self.files = folder, data, identity, files
        self.root = Path(files.about("root")) if files.about("kind") == FOLDER else None
        self.model: str | None = files.about("model")
        count, dim = int(files.about("rows")), identity.embed_dim
        self.rows = _mapped(data / EMBEDDINGS, count, dim, "<f2")
        self.objects = self.boxes = None
        if identity.objects is not None:
            self.objects = _mapped(data / OBJECTS, count * REGIONS, dim, "<f2")
            self.boxes = _mapped(data / BOXES, count * REGIONS, 4, "<i4")
        self._dead: np.ndarray | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Opens what `kdeov index` made; rows are mapped and not read.

        Raises:
            DataError: There is no index, or it is damaged or truncated.
            StorageError: It cannot be read.
        """
        folder = user_path(folder)
        identity, rows = read_identity(folder)
        return cls(folder, folder / rows, identity, FileTable(folder / rows))

    def __len__(self) -> int:
        """Number of rows, those of deleted files included."""
        return len(self.rows)

    @property
    def dead(self) -> np.ndarray:
        """Sorted numbers of the rows of deleted files, int64 [N]."""
        with self._lock:
            if self._dead is None:
                rows = self.files.dead_rows()
                self._dead = rows[rows < len(self.rows)]
            return self._dead

    def search(
        self,
        query: np.ndarray,
        k: int = 10,
        where: Where | None = None,
        background: np.ndarray | None = None,
        probability: float | None = None,
        objects: bool = False,
        finder: Finder = top_rows,
    ) -> list[Hit]:
        """The images that fit a query best, in the exact order (see `pipeline.search.exact`).

        Args:
            query: Unit embedding, float32 [D].
            k: Number of images.
            where: Which files are searched; None searches all.
            background: Unit embeddings [N, D] of images that are no answers, by whose scores for
                this query probabilities are computed; None computes none.
            probability: Highest probability of a hit; needs a background.
            objects: Whether regions of images are searched; an image counts by its best one.
            finder: Finds the rows; another one is `pipeline.search.ann.ApproximateSearch`.

        Returns:
            At most `k` hits, best first.

        Raises:
            ConfigError: A query of another width or not finite, or a background that is missing.
            DataError: The index has no regions, or is damaged.
        """
        query = self._query(query)
        if probability is not None and background is None:
            raise ConfigError("a probability needs a background, which this model does not have")
        condition = where.condition(self.root) if where is not None else ("1", [])
        chosen = None
        if where is not None:
            chosen = self.files.rows(condition)
            chosen = chosen[chosen < len(self.rows)]
        rows, group = self._searched(objects)
        numbers, scores = finder(rows, query, k, chosen, self.dead, group)
        tails = ScoreTail.of(background, query) if background is not None else None
        rarities = tails.probabilities(scores).tolist() if tails is not None else [None] * k
        named = self._named((numbers // group).tolist(), condition)
        hits: list[Hit] = []
        for number, score, rarity in zip(
            numbers.tolist(), scores.tolist(), rarities[: len(numbers)], strict=True
        ):
            if probability is not None and rarity > probability:
                continue
            box = self._box(number) if objects else None
            for file in named.get(number // group, ()):
                hits.append(Hit(file.path, score, rarity, file.date, box, file.row))
        return hits[:k]

    def embedding(self, path: str) -> np.ndarray | None:
        """The unit embedding float32 [D] of a file of the index; None where it has none."""
        row = self.files.row_of(path)
        if row is None or row >= len(self.rows):
            return None
        found = self.rows[row].astype(np.float32)
        return found / np.linalg.norm(found)

    def image_file(self, row: int) -> Path | None:
        """The file of a row, within the indexed folder; None where there is none (any more)."""
        files = self._named([row], ("1", [])).get(row, ()) if self.root is not None else ()
        for file in files:
            assert self.root is not None
            path = self.root / file.path
            if path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
                return path
        return None

    def _query(self, query: np.ndarray) -> np.ndarray:
        query = np.asarray(query, np.float32)
        if query.shape != (self.identity.embed_dim,) or not np.isfinite(query).all():
            raise ConfigError(
                f"a query of shape {query.shape}; give {self.identity.embed_dim} finite numbers"
            )
        return query

    def _searched(self, objects: bool) -> tuple[np.ndarray, int]:
        if not objects:
            return self.rows, 1
        if self.objects is None:
            raise DataError(f"{self.folder}: holds no regions; `kdeov index --objects` makes them")
        return self.objects, REGIONS

    def _named(
        self, rows: list[int], where: tuple[str, list[bytes | str]]
    ) -> dict[int, list[Named]]:
        found: dict[int, list[Named]] = {}
        for start in range(0, len(rows), 512):  # SQLite bounds the marks of a query
            found.update(self.files.named(rows[start : start + 512], where))
        return found

    def _box(self, number: int) -> Box:
        assert self.boxes is not None
        left, top, right, bottom = self.boxes[number].tolist()
        return left, top, right, bottom


def _mapped(path: Path, count: int, width: int, kind: str) -> np.ndarray:
    """A memory map [count, width] of the beginning of a file, read only."""
    if count == 0:
        return np.empty((0, width), kind)
    try:
        size = path.stat().st_size
        if size < count * width * np.dtype(kind).itemsize:
            raise DataError(
                f"{path}: truncated, it has {size} bytes of "
                f"{count * width * np.dtype(kind).itemsize}; {FIX}"
            )
        # a plain array: of a `memmap`, each slice would be one
        return np.asarray(np.memmap(path, kind, "r", shape=(count, width)))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; {FIX}") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be mapped ({error}); check the folder") from error
