"""Parquet files with images: splits, classes and captions as exports of `datasets` have them."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from kdeov.prompts import templates
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.sources.parquet import _files
from tests.helpers.parquets import export, images, labelled, listed
from tests.helpers.sampling import made
from tests.helpers.tars import JPEG

NAMES = ["polar_bear", "cat", "ant"]


def of_samples(samples: dict[str, Sample | Rejected]) -> dict[str, Sample]:
    return {name: sample for name, sample in samples.items() if isinstance(sample, Sample)}


def reasons(samples: dict[str, Sample | Rejected]) -> dict[str, str]:
    return {n: s.reason for n, s in samples.items() if isinstance(s, Rejected)}


def test_what_the_library_datasets_writes_is_read(root: Path) -> None:
    folder = root / "tests" / "data" / "hugging_face"
    source = listed(folder, caption_column="captions", templates=None, val=0.5, test=0.5)
    assert {s: len(source.inputs[s]) for s in source.inputs} == {"train": 7, "val": 3, "test": 2}
    assert source.classes == ["cat", "polar bear"]
    samples = of_samples(made(source))
    assert [s.label for s in samples.values()] == [0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1]
    assert samples["validation-00000-of-00001.parquet/2"].captions == ["a cat 2", "b"]


def test_splits_are_those_of_file_names_and_classes_those_of_the_metadata(tmp_path: Path) -> None:
    labelled(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 1], NAMES)
    labelled(tmp_path / "data/train-00001-of-00002.parquet", [0], NAMES)
    labelled(tmp_path / "data/validation-00000-of-00001-3f2a.parquet", [1, 0], NAMES)
    labelled(tmp_path / "data/test-00000-of-00001.parquet", [2], NAMES)
    source = listed(tmp_path)
    assert {s: len(source.inputs[s]) for s in source.inputs} == {"train": 4, "val": 2, "test": 1}
    assert source.classes == ["ant", "cat", "polar bear"] and source.held_out == ["ant"]
    samples = of_samples(made(source))
    first = samples["data/train-00000-of-00002.parquet/0"]
    assert first.key == "data_train-00000-of-00002-0000000" and first.jpeg == JPEG
    assert first.captions == [t.format("polar bear") for t in templates("plain")]
    assert [s.label for s in samples.values()] == [2, 1, 1, 2, 1, 2, 0]
    assert len({s.key for s in samples.values()}) == 7


@pytest.mark.parametrize("val", ["valid/0000.parquet", "val.parquet", "dev-00000-of-00001.parquet"])
def test_folders_and_whole_files_may_stand_for_splits(tmp_path: Path, val: str) -> None:
    labelled(tmp_path / val, [1], NAMES)
    labelled(tmp_path / ("train/0000.parquet" if "/" in val else "train.parquet"), [0, 0], NAMES)
    source = listed(tmp_path, test=0.5)
    assert len(source.inputs["val"]) == 1
    assert len(source.inputs["train"]) + len(source.inputs["test"]) == 2


def test_shares_are_drawn_row_by_row_and_new_files_move_no_row(tmp_path: Path) -> None:
    labelled(tmp_path / "a.parquet", [0, 1] * 20, NAMES)
    one = listed(tmp_path, val=0.2, test=0.2)
    labelled(tmp_path / "b.parquet", [0, 1] * 20, NAMES)
    two = listed(tmp_path, val=0.2, test=0.2)
    for split, rows in one.inputs.items():
        assert 0 < len(rows) < 40
        assert list(rows) == [row for row in two.inputs[split] if row.file == "a.parquet"]
    assert sum(map(len, two.inputs.values())) == 80
    assert len({row.key for rows in two.inputs.values() for row in rows}) == 80


@pytest.mark.parametrize(
    ("column", "captions"),
    [
        (["a dog", "two  cats"], [["a dog"], ["two cats"]]),
        ([["a dog", None, "a hound"], ["cats"]], [["a dog", "a hound"], ["cats"]]),
    ],
)
def test_captions_are_texts_or_lists_and_images_may_be_bare_bytes(
    tmp_path: Path, column: list[Any], captions: list[list[str]]
) -> None:
    columns = {"jpg": pyarrow.array([JPEG, JPEG]), "text": column}
    export(tmp_path / "x.parquet", columns)
    kinds: dict[str, Any] = {"image_column": "jpg", "label_column": None, "templates": None}
    source = listed(tmp_path / "x.parquet", caption_column="text", **kinds)
    assert [s.captions for s in of_samples(made(source)).values()] == captions
    assert source.classes == []
    silent = listed(tmp_path / "x.parquet", **kinds)
    assert [s.captions for s in of_samples(made(silent)).values()] == [[], []]


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.dictionary("int8", "string")])
def test_labels_may_be_names(tmp_path: Path, kind: pyarrow.DataType) -> None:
    labels = pyarrow.array(["cat", "dog", None, "cat"], kind)
    export(tmp_path / "x.parquet", {"image": images(4), "label": labels})
    source = listed(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert [s.label for s in of_samples(made(source)).values()] == [0, 1, 0]
    assert reasons(made(source)) == {"x.parquet/2": "no label"}


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(tmp_path: Path) -> None:
    cells = [
        {"bytes": JPEG}, {"bytes": None, "path": "a.jpg"}, None, {"bytes": b"GIF8"},
        {"bytes": JPEG}, {"bytes": JPEG},
    ]  # fmt: skip
    columns = {"image": cells, "label": pyarrow.array([0, 0, 0, 0, -1, 7], pyarrow.int8())}
    export(tmp_path / "x.parquet", columns, NAMES)
    found = reasons(made(listed(tmp_path)))
    assert found.keys() == {f"x.parquet/{row}" for row in range(1, 6)}
    assert "no bytes" in found["x.parquet/1"] and "no bytes" in found["x.parquet/2"]
    assert "label -1" in found["x.parquet/4"] and "label 7" in found["x.parquet/5"]


def test_a_file_without_rows_adds_none(tmp_path: Path) -> None:
    labelled(tmp_path / "a.parquet", [], NAMES)
    labelled(tmp_path / "b.parquet", [1], NAMES)
    source = listed(tmp_path, val=0.1, test=0.1)
    assert sum(map(len, source.inputs.values())) == 1 and source.classes == ["cat"]


def test_inputs_are_small_and_travel_to_workers(tmp_path: Path) -> None:
    labelled(tmp_path / "x.parquet", [0] * 5, NAMES)
    source = listed(tmp_path)
    rows = list(source.inputs["train"])
    assert len(pickle.dumps(rows[0])) < 500 and pickle.loads(pickle.dumps(rows)) == rows
    assert [(row.number, row.group, row.row) for row in rows] == [
        (0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0),
    ]  # fmt: skip
    make = pickle.loads(pickle.dumps(source.make))
    assert [make(row) for row in rows] == [source.make(row) for row in rows]


def test_a_file_that_changes_or_vanishes_after_it_was_listed_rejects_its_rows(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        labelled(tmp_path / f"{name}.parquet", [0], NAMES)
    source = listed(tmp_path)
    (tmp_path / "a.parquet").unlink()
    labelled(tmp_path / "b.parquet", [0, 1], NAMES)
    found = reasons(made(source))
    assert found.keys() == {"a.parquet/0", "b.parquet/0"}
    assert "vanished" in found["a.parquet/0"] and "changed" in found["b.parquet/0"]


def test_a_changed_file_changes_the_version_of_its_inputs_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        labelled(tmp_path / f"{name}.parquet", [0], NAMES)
    before = list(listed(tmp_path).inputs["train"])
    labelled(tmp_path / "b.parquet", [1], NAMES)
    after = list(listed(tmp_path).inputs["train"])
    assert before[0] == after[0] and before[1].version != after[1].version


def test_a_row_group_with_damaged_pages_rejects_its_rows(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.parquet", [0, 0, 1, 1], NAMES)
    data = bytearray(path.read_bytes())
    data[4 : len(JPEG) // 2] = bytes(len(JPEG) // 2 - 4)  # the first pages
    path.write_bytes(data)
    samples = made(listed(tmp_path))
    assert {"x.parquet/0", "x.parquet/1"} <= reasons(samples).keys()
    assert {"x.parquet/2", "x.parquet/3"} == of_samples(samples).keys()


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Any
) -> None:
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refusing)  # root may read all folders
    with complains(tmp_path / "locked", "Permission denied"):
        _files(tmp_path)
