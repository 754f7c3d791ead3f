"""Embeds images into an index: read in threads, embedded in batches, committed in larger ones."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from PIL import Image

from kdeov.errors import DataError
from pipeline.inference.models import ExportedModel, InferenceModel
from pipeline.search.build.read import Item, Read, read_item
from pipeline.search.build.writer import IndexWriter
from pipeline.search.model import SearchModel
from pipeline.search.table import File

FORWARD = 16  # images of a forward pass
COMMIT = 128  # files that a killed run may have to do again
AHEAD = 256  # files that are read before they are embedded, 40 MB at 224 pixels


@dataclass
class Counts:
    """What an update of an index did.

    Attributes:
        embedded: Images that have new rows.
        kept: Files whose images had rows already: moved, copied or touched ones.
        gone: Files that left the table.
        files: Files of the index afterwards.
        dead: Rows of which no file is left.
        failed: Paths of images that could not be read.
        errors: Their errors, and those of folders.
    """

    embedded: int = 0
    kept: int = 0
    gone: int = 0
    files: int = 0
    dead: int = 0
    failed: list[str] = field(default_factory=list)
    errors: list[DataError] = field(default_factory=list)


class Updater:
    """Adds images to an index, a batch of `COMMIT` at a time.

    Args:
        writer: Of the index, entered.
        model: Whose identity the index has; opened for the first image.
        counts: Counts what is done.
        on_progress: Called with a number of files that are done.
    """

    def __init__(
        self,
        writer: IndexWriter,
        model: SearchModel,
        counts: Counts,
        on_progress: Callable[[int], object] = lambda _: None,
    ):
        self._writer, self._model, self._counts = writer, model, counts
        self._on_progress = on_progress
        self._waiting: list[Read] = []  # to be embedded
        self._files: list[File] = []  # to be committed
        self._rows: list[np.ndarray] = []
        self._regions: list[tuple[np.ndarray, np.ndarray]] = []
        self._new: dict[bytes, int] = {}  # rows by sha256 that are not committed yet

    def add(self, items: Iterable[Item]) -> None:
        """Adds images; the last of them are committed as well.

        Raises:
            KdeovError: The model cannot be opened, or the index not be written.
        """
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and still read
        has_regions = self._writer.identity.objects is not None
        detector = self._model.detector() if has_regions else None
        for read in self._read_ahead(items, self._model.opened, detector):
            self._on_progress(1)
            if isinstance(read, tuple):
                self._counts.failed.append(read[0].path)
                self._counts.errors.append(read[1])
                continue
            self._place(read)
            if len(self._waiting) == FORWARD:
                self._embed()
            if len(self._files) >= COMMIT:
                self.commit()
        self.commit()

    def commit(self) -> None:
        """Embeds what waits and commits what is embedded."""
        self._embed()
        if not self._files:
            return
        dim = self._writer.identity.embed_dim
        regions = None
        if self._writer.identity.objects is not None:
            boxes = [boxes for boxes, _ in self._regions]
            embeddings = [embeddings for _, embeddings in self._regions]
            regions = (
                np.concatenate(embeddings) if embeddings else np.empty((0, dim), np.float32),
                np.concatenate(boxes) if boxes else np.empty((0, 4), np.int32),
            )
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, dim), np.float32)
        self._writer.commit(rows, self._files, regions)
        self._counts.embedded += len(rows)
        self._counts.kept += len(self._files) - len(rows)
        self._files, self._rows, self._regions, self._new = [], [], [], {}

    def _place(self, read: Read) -> None:
        """Gives an image its row: that of an image of the same bytes, or a new one."""
        row = self._new.get(read.sha256)
        if row is None:
            row = self._writer.row_of_content(read.sha256)
        if row is None:
            assert read.pixels is not None
            row = self._writer.count + len(self._new)
            self._new[read.sha256] = row
            self._waiting.append(read)
        item = read.item
        moment = read.date or item.moment
        self._files.append(
            File(
                item.path, read.sha256, item.bytes, item.changed_ns, read.date, moment, row,
                item.part,
            )
        )  # fmt: skip

    def _embed(self) -> None:
        if not self._waiting:
            return
        pixels = np.stack([read.pixels for read in self._waiting if read.pixels is not None])
        self._rows.append(self._model.opened.embed_pixels(pixels))
        self._regions += [read.regions for read in self._waiting if read.regions is not None]
        self._waiting = []

    def _read_ahead(
        self, items: Iterable[Item], model: InferenceModel, detector: ExportedModel | None
    ) -> Iterator[Read | tuple[Item, DataError]]:
        """Images in order, or the errors of those that cannot be read."""

        def is_known(sha256: bytes) -> bool:
            return self._writer.row_of_content(sha256) is not None

        source = iter(items)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            waiting: deque[tuple[Item, Future[Read]]] = deque()
            try:
                while True:
                    for item in islice(source, AHEAD - len(waiting)):
                        task = pool.submit(read_item, item, model, detector, is_known)
                        waiting.append((item, task))
                    if not waiting:
                        return
                    item, future = waiting.popleft()
                    try:
                        yield future.result()
                    except DataError as error:
                        yield item, error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def empty_regions(writer: IndexWriter) -> tuple[np.ndarray, np.ndarray] | None:
    """No regions, as `IndexWriter.commit` takes them; None in an index without."""
    if writer.identity.objects is None:
        return None
    return np.empty((0, writer.identity.embed_dim), np.float32), np.empty((0, 4), np.int32)
