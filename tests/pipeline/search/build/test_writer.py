"""Rows are appended, then counted; one process writes; a rebuild replaces when it is whole."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from pipeline.search.build.writer import IndexWriter
from pipeline.search.index import EMBEDDINGS, Index
from tests.helpers import ROOT, kills
from tests.helpers.indexes import DIM, file_of, identity_of, unit_rows, write_index

Complains = Callable[..., AbstractContextManager[None]]


def test_rows_are_appended_and_never_moved(tmp_path: Path) -> None:
    rows = unit_rows(60)
    write_index(tmp_path / "index", rows[:20])
    path = tmp_path / "index" / "rows-1" / EMBEDDINGS
    first = path.read_bytes()
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        assert writer.count == 20
        for start in (20, 40):
            writer.commit(
                rows[start : start + 20], [file_of(row) for row in range(start, start + 20)]
            )
    assert path.read_bytes()[: len(first)] == first
    assert np.array_equal(Index.open(tmp_path / "index").rows, rows.astype(np.float16))


def test_what_a_killed_run_wrote_and_did_not_count_is_cut_off(tmp_path: Path) -> None:
    write_index(tmp_path / "index", unit_rows(5))
    path = tmp_path / "index" / "rows-1" / EMBEDDINGS
    with open(path, "ab") as file:
        file.write(b"half a row")
    assert len(Index.open(tmp_path / "index")) == 5
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        writer.commit(unit_rows(1, seed=9), [file_of(5)])
    assert np.array_equal(
        Index.open(tmp_path / "index").rows[5], unit_rows(1, seed=9)[0].astype(np.float16)
    )


def test_a_row_lives_as_long_as_one_of_its_files(tmp_path: Path) -> None:
    query = unit_rows(1)[0]
    two = [file_of(0, "one.jpg"), file_of(0, "two.jpg"), file_of(1, "other.jpg")]
    write_index(tmp_path / "index", unit_rows(2), two)

    def remove(*paths: str) -> Index:
        with IndexWriter(tmp_path / "index", identity_of()) as writer:
            writer.commit(np.empty((0, DIM)), [], removed=paths)
        return Index.open(tmp_path / "index")

    index = remove("one.jpg")
    assert sorted(hit.path for hit in index.search(query)) == ["other.jpg", "two.jpg"]
    assert index.dead.tolist() == []
    index = remove("two.jpg")
    assert [hit.path for hit in index.search(query)] == ["other.jpg"]
    assert index.dead.tolist() == [0]
    with IndexWriter(tmp_path / "index", identity_of()) as writer:  # it comes back
        row = writer.row_of_content(two[0].sha256)
        assert row == 0
        writer.commit(np.empty((0, DIM)), [file_of(row, "three.jpg")])
    index = Index.open(tmp_path / "index")
    assert sorted(hit.path for hit in index.search(query)) == ["other.jpg", "three.jpg"]


def test_two_writers_of_one_index_exclude_each_other_and_a_kill_frees_it(
    tmp_path: Path, complains: Complains
) -> None:
    write_index(tmp_path / "index", unit_rows(2))
    read, write = os.pipe()

    def hold() -> None:
        with IndexWriter(tmp_path / "index", identity_of()):
            os.write(write, b"x")
            os.read(os.pipe()[0], 1)  # for good

    pid = kills.start(hold)
    assert os.read(read, 1) == b"x"
    with complains("another", "kdeov index", tmp_path / "index"):
        IndexWriter(tmp_path / "index", identity_of()).__enter__()
    assert len(Index.open(tmp_path / "index")) == 2  # readers are free
    assert kills.kill(pid)
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        assert writer.count == 2


@pytest.mark.parametrize("images", ["a", "c"])
def test_a_rebuild_replaces_the_index_when_it_is_whole(tmp_path: Path, images: str) -> None:
    folder = tmp_path / "index"
    old = write_index(folder, unit_rows(9))
    new = identity_of(images=images)
    with IndexWriter(folder, new, rebuild=True) as writer:
        assert writer.count == 0
        writer.commit(unit_rows(3, seed=1), [file_of(row) for row in range(3)])
        assert Index.open(folder).identity == old.identity and len(Index.open(folder)) == 9
    with IndexWriter(folder, new, rebuild=True) as writer:  # goes on
        assert writer.count == 3
        writer.finish()
    index = Index.open(folder)
    assert index.identity == new and len(index) == 3
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "identity.json", "rows-2"]
    assert len(old.search(unit_rows(1)[0], 9)) == 9  # who has it open keeps its rows


def test_a_stopped_rebuild_of_another_model_starts_anew(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write_index(folder, unit_rows(9))
    with IndexWriter(folder, identity_of(images="c"), rebuild=True) as writer:
        writer.commit(unit_rows(3), [file_of(row) for row in range(3)])
    with IndexWriter(folder, identity_of(images="d"), rebuild=True) as writer:
        assert writer.count == 0


def test_an_index_of_another_model_is_refused_by_name(tmp_path: Path, complains: Complains) -> None:
    write_index(tmp_path / "index", unit_rows(2))
    with complains(tmp_path / "index", "model a", "model c", "aaaaaaaa", "cccccccc", "--rebuild"):
        IndexWriter(tmp_path / "index", identity_of(images="c")).__enter__()
    assert len(Index.open(tmp_path / "index")) == 2


def test_a_folder_of_something_else_stays_as_it_was(tmp_path: Path, complains: Complains) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with complains(tmp_path, "letter.txt"):
        IndexWriter(tmp_path, identity_of()).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with complains("is a file"):
        IndexWriter(tmp_path / "letter.txt", identity_of()).__enter__()


def test_a_truncated_index_is_not_continued(tmp_path: Path, complains: Complains) -> None:
    write_index(tmp_path / "index", unit_rows(200))
    os.truncate(tmp_path / "index" / "rows-1" / EMBEDDINGS, 100)
    with complains("truncated", "--rebuild"):
        IndexWriter(tmp_path / "index", identity_of()).__enter__()
    with IndexWriter(tmp_path / "index", identity_of(), rebuild=True) as writer:
        writer.commit(unit_rows(1), [file_of(0)])
        writer.finish()
    assert len(Index.open(tmp_path / "index")) == 1


FULL = """
import resource, signal, sys
from pathlib import Path
from kdeov.errors import StorageError
from pipeline.search.build.writer import IndexWriter
from tests.helpers.indexes import file_of, identity_of, unit_rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
done = 0
try:
    with IndexWriter(Path(sys.argv[1]), identity_of()) as writer:
        done = start = writer.count
        for start in range(start, start + 100_000, 100):
            writer.commit(unit_rows(100), [file_of(row) for row in range(start, start + 100)])
            done = writer.count
except StorageError as error:
    print(done, str(error).replace(chr(10), "NEWLINE"))
"""


@pytest.mark.parametrize("limit", [30_000, 100_000])
def test_a_full_disk_is_one_line_and_loses_no_batch(tmp_path: Path, limit: int) -> None:
    write_index(tmp_path / "index", unit_rows(100))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "index"), str(limit)],
        env=environment, capture_output=True, text=True, timeout=100, encoding="utf-8",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    done, _, message = ran.stdout.strip().partition(" ")
    assert str(tmp_path / "index") in message and "NEWLINE" not in message and "free" in message
    index = Index.open(tmp_path / "index")
    assert len(index) == int(done) and len(index.files) == int(done)
    with IndexWriter(tmp_path / "index", identity_of()) as writer:
        writer.commit(unit_rows(1), [file_of(writer.count)])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_that_cannot_be_written_is_named_and_still_searched(
    complains: Complains,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:  # whose parents anybody may enter
        folder = Path(parent) / "index"
        write_index(folder, unit_rows(5))
        paths = [folder, folder / "rows-1", *(folder / "rows-1").iterdir(), folder / ".lock"]
        for path in (folder.parent, *paths):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def use() -> None:
            if os.geteuid() == 0:  # who may write everywhere
                os.setuid(65534)
            assert len(Index.open(folder).search(unit_rows(1)[0])) == 5
            with complains(folder, "cannot be written"):
                IndexWriter(folder, identity_of()).__enter__()
            with complains(folder.parent, "cannot be written"):
                IndexWriter(folder.parent / "new", identity_of()).__enter__()

        assert kills.succeeds(kills.start(use))
        for path in (folder.parent, *paths):
            path.chmod(0o755)
