"""Shards are indexed by their keys, and the teacher's cached embeddings without decoding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.manifest import Manifest
from pipeline.cli.inference.search.index import Options, make_index
from pipeline.cli.inference.search.search import Query, Shown, search_index
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.search.build import shards as building
from pipeline.search.build.shards import teacher_text_space
from pipeline.search.index import Index
from pipeline.search.model import SearchModel
from tests.helpers.stored_shards import cut

Complains = Callable[..., AbstractContextManager[None]]


def options(**changes: object) -> Options:
    values = {"objects": False, "rebuild": False, "embeddings": None, "teacher": None,
              "model": None, "int8": False}  # fmt: skip
    return Options(**{**values, **changes})  # type: ignore[arg-type]


def cached(layout: Layout, split: str) -> Options:
    return options(embeddings=layout.embeddings / split)


def query(**changes: object) -> Query:
    values = {"text": "", "like": [], "minus": [], "where": [], "templates": None, "k": 10,
              "probability": None, "objects": False, "ann": False}  # fmt: skip
    return Query(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where an image is opened."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr(Image, "open", fail)


def test_cached_embeddings_are_indexed_by_key_without_decoding(
    built: Layout, params: Params, tmp_path: Path, no_decoding: None
) -> None:
    make_index(built.images / "train", tmp_path / "index", cached(built, "train"))
    samples = list(open_cache(params, built, "train"))
    index = Index.open(tmp_path / "index")
    assert len(index) == len(samples) == len(index.files)
    for sample in samples:
        row = index.files.row_of(sample.key)
        assert np.array_equal(index.rows[row], sample.view_embeddings[0])
    assert index.root is None and index.model is None


def test_a_second_run_reads_no_shard_and_loads_no_teacher(
    built: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(built.images / "val", tmp_path / "index", cached(built, "val"))
    monkeypatch.setattr(building, "_samples", None)
    monkeypatch.setattr(building, "teacher_text_space", None)
    make_index(built.images / "val", tmp_path / "index", cached(built, "val"))
    assert len(Index.open(tmp_path / "index")) == 12


def test_images_of_shards_that_are_gone_leave_the_index(built: Layout, tmp_path: Path) -> None:
    shutil.copytree(built.root / "out", tmp_path / "out")
    layout = Layout(tmp_path)
    make_index(layout.images / "train", tmp_path / "index", cached(layout, "train"))
    for folder in (layout.images / "train", layout.embeddings / "train"):
        manifest = Manifest.read(folder)
        del manifest.shards[0]
        manifest.write(folder)
    make_index(layout.images / "train", tmp_path / "index", cached(layout, "train"))
    index = Index.open(tmp_path / "index")
    assert len(index.files) == 14 and len(index.dead) == 10


def test_texts_of_the_teachers_students_search_its_embeddings(
    trained: tuple[Layout, Params], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    complains: Complains,
) -> None:  # fmt: skip
    layout, _ = trained
    export = str(layout.export)
    make_index(layout.images / "val", tmp_path / "index", cached(layout, "val"))
    assert SearchModel(export).text_digest == Index.open(tmp_path / "index").identity.text_space
    capsys.readouterr()
    search_index(tmp_path / "index", query(text="a red circle"), Shown(False, None), export)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    key = lines[3].split()[-1]
    search_index(tmp_path / "index", query(like=[key]), Shown(False, None), None)
    assert capsys.readouterr().out.splitlines()[0].split()[-1] == key
    Image.new("RGB", (40, 40)).save(tmp_path / "outside.png")
    outside = query(like=[str(tmp_path / "outside.png")])
    with complains(tmp_path / "index", "images are embedded by"):
        search_index(tmp_path / "index", outside, Shown(False, None), export)


def test_image_shards_are_embedded_by_a_student_like_files(
    trained: tuple[Layout, Params], tmp_path: Path
) -> None:
    layout, params = trained
    chosen = options(model=str(layout.export))
    make_index(layout.images / "val", tmp_path / "index", chosen)
    samples = list(open_cache(params, layout, "val"))
    (tmp_path / "photos").mkdir()
    for sample in samples:
        (tmp_path / "photos" / f"{sample.key}.jpg").write_bytes(sample.jpeg)
    make_index(tmp_path / "photos", tmp_path / "files", chosen)
    shards, files = Index.open(tmp_path / "index"), Index.open(tmp_path / "files")
    assert len(shards) == len(samples)
    for sample in samples:
        ours, theirs = shards.embedding(sample.key), files.embedding(f"{sample.key}.jpg")
        assert ours is not None and theirs is not None and ours @ theirs > 0.999


def test_another_teachers_embeddings_are_refused(
    built: Layout, tmp_path: Path, complains: Complains
) -> None:
    manifest = Manifest.read(built.embeddings / "val")
    other = {**manifest.identity["teacher"], "weights_sha256": "0" * 64}
    with complains("teacher"):
        teacher_text_space(built.teacher, other)


def test_what_does_not_fit_together_is_named(
    built: Layout, tmp_path: Path, complains: Complains
) -> None:
    index = tmp_path / "index"
    with complains("train", "val"):
        make_index(built.images / "train", index, cached(built, "val"))
    with complains("'images'", "teacher"):
        make_index(built.embeddings / "val", index, options(embeddings=built.images / "val"))
    with complains("--embeddings", "--model"):
        make_index(built.images / "val", index, options(embeddings=built.images, model="x"))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_shard_is_named_and_the_others_are_kept(
    built: Layout, tmp_path: Path, complains: Complains, damage: str
) -> None:
    shutil.copytree(built.root / "out", tmp_path / "out")
    layout = Layout(tmp_path)
    shard = layout.embeddings / "train" / "000001.tar"
    whole = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(cut(whole))
    else:
        shard.unlink()
    with complains(shard, "run"):
        make_index(layout.images / "train", tmp_path / "index", cached(layout, "train"))
    assert len(Index.open(tmp_path / "index").files) >= 10
    shard.write_bytes(whole)
    make_index(layout.images / "train", tmp_path / "index", cached(layout, "train"))
    assert len(Index.open(tmp_path / "index").files) == 24
