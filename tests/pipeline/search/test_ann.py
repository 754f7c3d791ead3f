"""Approximate search states its recall on real queries, and is refused where it is low."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from pipeline.search import ann
from pipeline.search.ann import MIN_RECALL, ApproximateSearch
from pipeline.search.build.writer import IndexWriter
from pipeline.search.exact import top_rows
from pipeline.search.index import Index
from pipeline.search.where import Where
from tests.helpers.indexes import file_of, identity_of, unit_rows, write_index

pytest.importorskip("faiss", reason="the extra ann is not installed")
Complains = Callable[..., AbstractContextManager[None]]
ROWS = 12_000


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Unit rows in clusters, as embeddings of photographs are."""
    draw = np.random.default_rng(seed)
    rows = unit_rows(200)[draw.integers(0, 200, count)] + 0.5 * unit_rows(count, seed=seed + 1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    files = [file_of(row, f"{row % 7}/{row}.jpg") for row in range(ROWS)]
    return write_index(tmp_path_factory.mktemp("ann") / "index", clustered(ROWS), files)


def test_the_stated_recall_is_that_of_unseen_queries(index: Index) -> None:
    finder = ApproximateSearch(index, clustered(1, 77)[0])
    assert finder.measured.recall >= MIN_RECALL and finder.measured.queries == 257
    found = [
        len(np.intersect1d(finder(index.rows, q, 10)[0], top_rows(index.rows, q, 10)[0]))
        for q in clustered(200, 99)
    ]
    assert np.mean(found) / 10 >= MIN_RECALL - 0.03


def test_what_it_finds_has_exact_scores_in_the_exact_order(index: Index) -> None:
    query = clustered(1, 5)[0]
    finder = ApproximateSearch(index, query)
    exact = {hit.path: hit.score for hit in index.search(query, ROWS)}
    hits = index.search(query, 20, finder=finder)
    assert [exact[hit.path] for hit in hits] == [hit.score for hit in hits]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.slow
def test_filters_and_deleted_files_count(tmp_path: Path) -> None:
    files = [file_of(row, f"{row % 7}/{row}.jpg") for row in range(ROWS)]
    write_index(tmp_path / "index", clustered(ROWS), files)
    query = clustered(1, 5)[0]
    best = Index.open(tmp_path / "index").search(query, 5)
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        writer.commit(np.empty((0, len(query))), [], removed=[hit.path for hit in best])
    index = Index.open(tmp_path / "index")
    finder = ApproximateSearch(index, query)
    gone = {hit.path for hit in best}
    hits = index.search(query, 50, finder=finder)
    assert len(hits) == 50 and not gone & {hit.path for hit in hits}
    hits = index.search(query, 50, Where(folder="3"), finder=finder)
    assert len(hits) == 50 and all(hit.path.startswith("3/") for hit in hits)


def test_lists_are_kept_and_filled_up_where_rows_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, query = tmp_path / "index", clustered(1, 5)[0]
    index = write_index(folder, clustered(ROWS))
    first = ApproximateSearch(index, query).measured
    with monkeypatch.context() as patch:
        patch.setattr(ApproximateSearch, "_make", None)
        patch.setattr(ApproximateSearch, "_measure", None)
        assert ApproximateSearch(Index.open(folder), query).measured == first
    with IndexWriter(folder, identity_of()) as writer:
        writer.commit(query[None], [file_of(ROWS)])
    monkeypatch.setattr(ApproximateSearch, "_make", None)
    index = Index.open(folder)
    finder = ApproximateSearch(index, query)
    assert finder.measured.rows == ROWS + 1
    assert index.search(query, 1, finder=finder)[0].path == f"{ROWS}.jpg"


def test_damaged_lists_are_made_again(tmp_path: Path) -> None:
    index, query = write_index(tmp_path / "index", clustered(ROWS)), clustered(1, 5)[0]
    ApproximateSearch(index, query)
    for name, content in ((ann.LISTS, b"x"), (ann.ABOUT, b"{")):
        (index.data / name).write_bytes(content)
        assert ApproximateSearch(index, query).measured.recall >= MIN_RECALL


def test_a_low_recall_is_refused_with_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Complains
) -> None:
    rows = unit_rows(ROWS, 64)  # without clusters, near rows lie in many lists
    index = write_index(tmp_path / "index", rows)
    monkeypatch.setattr(ann, "PROBED", 0.02)
    with complains("recall@10", "0.", "257", "--ann"):
        ApproximateSearch(index, rows[0])


def test_few_rows_need_no_approximation(tmp_path: Path, complains: Complains) -> None:
    index = write_index(tmp_path / "index", unit_rows(50))
    with complains("--ann", "50 rows"):
        ApproximateSearch(index, unit_rows(1)[0])
