"""An index opens at once, and refuses what is damaged or of another model in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IDENTITY, require_same_model
from pipeline.search.index import EMBEDDINGS, Index
from pipeline.search.table import TABLE
from tests.helpers.indexes import DIM, file_of, identity_of, unit_rows, write_index

Complains = Callable[..., AbstractContextManager[None]]


def test_hits_are_those_of_numpy_with_paths_scores_and_dates(tmp_path: Path) -> None:
    rows, query = unit_rows(300), unit_rows(1, seed=1)[0]
    files = [file_of(row, f"a/{row}.jpg", f"2024-01-01T00:00:{row % 60:02}") for row in range(300)]
    index = write_index(tmp_path / "index", rows, files)
    scores = rows.astype(np.float16).astype(np.float64) @ query.astype(np.float64)
    wanted = np.argsort(-scores, kind="stable")[:5]
    hits = index.search(query, 5)
    assert [hit.path for hit in hits] == [f"a/{row}.jpg" for row in wanted]
    assert [hit.score for hit in hits] == pytest.approx(scores[wanted].tolist(), abs=1e-6)
    assert [hit.date for hit in hits] == [files[row].date for row in wanted]
    assert all(hit.probability is None and hit.box is None for hit in hits)


def test_a_probability_is_computed_for_the_query_and_cuts(tmp_path: Path) -> None:
    background, query = unit_rows(2000, seed=5), unit_rows(1, seed=1)[0]
    rows = np.concatenate([query[None], unit_rows(200, seed=7)])
    index = write_index(tmp_path / "index", rows)
    hits = index.search(query, 50, background=background, probability=0.01)
    assert hits[0].path == "0.jpg" and hits[0].probability == pytest.approx(0, abs=1e-6)
    assert all(hit.probability is not None and hit.probability <= 0.01 for hit in hits)
    assert len(hits) < 50
    assert len(index.search(query, 50, background=background)) == 50


def test_a_million_rows_open_at_once_and_are_not_read(tmp_path: Path) -> None:
    write_index(tmp_path / "index", unit_rows(3))
    data = tmp_path / "index" / "rows-1"
    with open(data / EMBEDDINGS, "r+b") as file:
        file.truncate(1_000_000 * DIM * 2)  # a hole
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        assert writer.count == 3  # what is not counted is cut off
    import sqlite3

    with sqlite3.connect(data / TABLE) as table:
        table.execute("UPDATE about SET value = 1000000 WHERE key = 'rows'")
    os.truncate(data / EMBEDDINGS, 1_000_000 * DIM * 2)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert len(Index.open(tmp_path / "index")) == 1_000_000
        took.append(time.perf_counter() - start)
    assert min(took) <= 0.05


def test_threads_share_an_index(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", unit_rows(5000))
    queries = unit_rows(64, seed=2)
    alone = [index.search(query, 7) for query in queries]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda query: index.search(query, 7), queries)) == alone


def test_an_open_index_stays_as_it_was_while_rows_are_added(tmp_path: Path) -> None:
    rows, query = unit_rows(50), unit_rows(1, seed=1)[0]
    before = write_index(tmp_path / "index", rows)
    hits = before.search(query, 5)
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        writer.commit(np.tile(query, (9, 1)), [file_of(50 + number) for number in range(9)])
    assert before.search(query, 5) == hits and len(before) == 50
    assert Index.open(tmp_path / "index").search(query, 1)[0].score == pytest.approx(1, abs=1e-3)


def test_an_image_file_is_found_within_the_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "in.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    files = [file_of(n, p) for n, p in enumerate(("in.jpg", "link.jpg", "../secret.jpg", "x.jpg"))]
    index = write_index(tmp_path / "index", unit_rows(4), files, root=str(root))
    assert index.image_file(0) == root / "in.jpg"
    assert [index.image_file(row) for row in (1, 2, 3, 4, -1)] == [None] * 5


def test_a_model_of_another_space_is_refused_by_name(complains: Complains) -> None:
    ours = identity_of()
    same = SimpleNamespace(embed_dim=DIM, image_digest="a" * 64, text_digest="b" * 64)
    require_same_model(ours, same)
    other_images = SimpleNamespace(embed_dim=DIM, image_digest="c" * 64, text_digest="b" * 64)
    require_same_model(ours, other_images, images=False)
    with complains("model a", "aaaaaaaa", "cccccccc", "--rebuild"):
        require_same_model(ours, other_images)
    other_texts = SimpleNamespace(embed_dim=DIM, image_digest="a" * 64, text_digest="d" * 64)
    with complains("model a", "bbbbbbbb", "dddddddd"):
        require_same_model(ours, other_texts, images=False)


def truncate_rows(folder: Path) -> None:
    os.truncate(folder / "rows-1" / EMBEDDINGS, 100)


def remove_rows(folder: Path) -> None:
    (folder / "rows-1" / EMBEDDINGS).unlink()


def truncate_table(folder: Path) -> None:
    os.truncate(folder / "rows-1" / TABLE, 5000)


def scramble_table(folder: Path) -> None:
    (folder / "rows-1" / TABLE).write_bytes(b"no database" * 1000)


def remove_table(folder: Path) -> None:
    (folder / "rows-1" / TABLE).unlink()


def edit_identity(folder: Path) -> None:
    values = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    (folder / IDENTITY).write_text(json.dumps({**values, "embed_dim": 8}), encoding="utf-8")


def truncate_identity(folder: Path) -> None:
    os.truncate(folder / IDENTITY, 20)


@pytest.mark.parametrize(
    "damage",
    [truncate_rows, remove_rows, truncate_table, scramble_table, remove_table, edit_identity,
     truncate_identity],
)  # fmt: skip
def test_a_damaged_index_is_named_in_one_line(
    tmp_path: Path, complains: Complains, damage: Callable[[Path], None]
) -> None:
    write_index(tmp_path / "index", unit_rows(400))
    damage(tmp_path / "index")
    with complains(tmp_path / "index", "--rebuild"):
        Index.open(tmp_path / "index").search(unit_rows(1)[0], 300)


def test_what_is_no_index_is_named(tmp_path: Path, complains: Complains) -> None:
    with complains(tmp_path / "absent", "no such folder"):
        Index.open(tmp_path / "absent")
    with complains(tmp_path, "not an index"):
        Index.open(tmp_path)


def test_a_senseless_query_is_refused(tmp_path: Path, complains: Complains) -> None:
    index = write_index(tmp_path / "index", unit_rows(4))
    for query in (np.ones(3), np.full(DIM, np.nan), np.ones((1, DIM))):
        with complains("query", DIM):
            index.search(query)
    with complains("background"):
        index.search(np.ones(DIM), probability=0.1)
    with complains(index.folder, "--objects"):
        index.search(np.ones(DIM), objects=True)
