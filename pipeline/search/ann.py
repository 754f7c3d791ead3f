"""Approximate search with faiss, for indexes that an exact pass takes too long for: inverted lists
of 8-bit rows, whose candidates are compared again with the fp16 rows. Its recall against the exact
search is measured on the index itself, and a low one is refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError, StorageError, first_line
from kdeov.weights.digests import with_digest, without_digest
from pipeline.search.dot_products import exact_products
from pipeline.search.exact import top_rows_of_many
from pipeline.search.index import Index
from pipeline.storage.files import disk_errors, write_json

logger = logging.getLogger(__name__)

LISTS, ABOUT = "ann.faiss", "ann.json"
FORMAT = 1
MIN_RECALL = 0.95
MIN_ROWS = 10_000  # below, an exact search takes milliseconds
QUERIES, BEST = 256, 10  # recall@10 of 256 queries
SAMPLE = 64  # rows a list by which the lists are found
BLOCK = 1 << 16
PROBED = 0.5  # largest share of the lists; beyond it, an exact pass is no slower
CANDIDATES = 8  # for each hit, compared again


@dataclass(frozen=True)
class Recall:
    """How good an approximate search is.

    Attributes:
        rows: Of the index when it was measured.
        probes: Lists that a query looks into.
        recall: Share of the exact best `BEST` that it finds.
        queries: That were measured.
    """

    rows: int
    probes: int
    recall: float
    queries: int


class ApproximateSearch:
    """Inverted lists of an index, made where they are missing and filled up where rows were added.

    Args:
        index: To be searched.
        query: The query at hand, which is measured too if there is something to measure.

    Attributes:
        measured: Its recall.

    Raises:
        ConfigError: faiss is missing, the index is small, or the recall is below `MIN_RECALL`.
    """

    def __init__(self, index: Index, query: np.ndarray):
        self._faiss = _faiss()
        self._index = index
        if len(index) < MIN_ROWS:
            raise ConfigError(
                f"--ann: {index.folder} has {len(index):,} rows; leave --ann out, an exact search "
                "of so few takes milliseconds"
            )
        self._lists, known = self._read()
        if self._lists is None or self._lists.ntotal > len(index):
            self._lists, known = self._make(), None
        if self._lists.ntotal < len(index) or known is None:
            self._add()
            known = self._measure(query)
            self._write(known)
        self.measured = known
        if known.recall < MIN_RECALL:
            raise ConfigError(
                f"--ann: recall@{BEST} against the exact search is {known.recall:.3f} on "
                f"{known.queries} queries, below {MIN_RECALL}; leave --ann out"
            )

    def __call__(
        self,
        rows: np.ndarray,
        query: np.ndarray,
        k: int,
        chosen: np.ndarray | None = None,
        left_out: np.ndarray | None = None,
        group: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `pipeline.search.exact.top_rows`, with nearly the same rows.

        Raises:
            ConfigError: Regions are searched, of which there are no lists.
        """
        if group != 1:
            raise ConfigError("--ann and --objects exclude each other; give one")
        faiss = self._faiss
        left_out = np.empty(0, np.int64) if left_out is None else left_out
        parameters = faiss.SearchParametersIVF(nprobe=self.measured.probes)
        if chosen is not None or len(left_out):
            searched = np.zeros(self._lists.ntotal, bool)
            searched[slice(None) if chosen is None else chosen] = True
            searched[left_out] = False
            bits = np.packbits(searched, bitorder="little")
            parameters.sel = faiss.IDSelectorBitmap(bits)
        return self._found(query[None], k, parameters)[0]

    def _found(
        self, queries: np.ndarray, k: int, parameters: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        wanted = min(CANDIDATES * max(k, BEST), self._lists.ntotal)
        _, numbers = self._lists.search(queries, wanted, params=parameters)
        found = []
        for query, row in zip(queries, numbers, strict=True):
            candidates = np.sort(row[row >= 0])
            scores = exact_products(self._index.rows[candidates], query)
            order = np.lexsort((candidates, -scores))[:k]
            found.append((candidates[order], scores[order]))
        return found

    def _make(self) -> Any:
        """Empty lists, around the centroids of a sample."""
        faiss, rows = self._faiss, self._index.rows
        count = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // SAMPLE))
        logger.info("ann: %d lists for %d rows ...", count, len(rows))
        dim = rows.shape[1]
        lists = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, count, faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )  # fmt: skip
        chosen = np.random.default_rng(0).choice(len(rows), min(SAMPLE * count, len(rows)), False)
        lists.train(rows[np.sort(chosen)].astype(np.float32))
        return lists

    def _add(self) -> None:
        for start in range(self._lists.ntotal, len(self._index), BLOCK):
            self._lists.add(self._index.rows[start : start + BLOCK].astype(np.float32))

    def _measure(self, query: np.ndarray) -> Recall:
        """Doubles the number of probed lists until the recall suffices."""
        index, faiss = self._index, self._faiss
        alive = np.setdiff1d(np.arange(len(index)), index.dead, assume_unique=True)
        chosen = alive[np.linspace(0, len(alive) - 1, QUERIES).astype(np.int64)]
        queries = np.concatenate([index.rows[chosen].astype(np.float32), query[None]])
        exact = top_rows_of_many(index.rows, queries, BEST)
        probes, most = 8, max(1, int(PROBED * self._lists.nlist))
        while True:
            probes = min(probes, most)
            found = self._found(queries, BEST, faiss.SearchParametersIVF(nprobe=probes))
            shared = [
                len(np.intersect1d(wanted, numbers))
                for wanted, (numbers, _) in zip(exact, found, strict=True)
            ]
            recall = sum(shared) / exact.size
            if recall >= MIN_RECALL or probes == most:
                return Recall(len(index), probes, recall, len(queries))
            probes *= 2

    def _read(self) -> tuple[Any, Recall | None]:
        """Lists that were made before, and their recall; None where there are none or others."""
        path, about = self._index.data / LISTS, self._index.data / ABOUT
        try:
            values = without_digest(json.loads(about.read_text(encoding="utf-8")), about, "")
            if values.pop("format") != FORMAT or values.pop("bytes") != path.stat().st_size:
                return None, None
            return self._faiss.read_index(str(path)), Recall(**values)
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, DataError):
            return None, None

    def _write(self, measured: Recall) -> None:
        path = self._index.data / LISTS
        partial = path.with_name(f"{LISTS}.partial")
        try:
            with disk_errors(path):
                (self._index.data / ABOUT).unlink(missing_ok=True)
                try:
                    self._faiss.write_index(self._lists, str(partial))
                except RuntimeError as error:
                    raise OSError(first_line(error)) from error
                partial.replace(path)
                values = {"format": FORMAT, "bytes": path.stat().st_size, **asdict(measured)}
                write_json(self._index.data / ABOUT, with_digest(values))
        except StorageError as error:
            logger.warning("the lists of --ann are not kept: %s", first_line(error))
        finally:
            Path(partial).unlink(missing_ok=True)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("--ann needs faiss: pip install 'kdeov[ann]', or leave it out") from error
    return faiss
