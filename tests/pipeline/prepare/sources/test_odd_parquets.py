"""Parquet files that cannot be a data set are refused in one line that names file and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest

from kdeov.errors import ConfigError, DataError
from tests.helpers.parquets import export, images, labelled, listed

NAMES = ["cat", "dog"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet" * 100])
def test_what_is_no_parquet_is_refused(tmp_path: Path, complains: Any, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with complains(tmp_path / "x.parquet"):
        listed(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path: Path, complains: Any) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / "absent.parquet"):
        with complains(path, "prepare.path"):
            listed(path)


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        ({"picture": images(1), "label": ["cat"]}, "prepare.parquet.image_column"),
        ({"image": ["a.jpg"], "label": ["cat"]}, "'image' holds string"),
        ({"image": images(1), "label": [1.5]}, "'label' holds double"),
        ({"image": images(1), "label": [1]}, "ClassLabel"),
        ({"image": images(1)}, "prepare.parquet.label_column"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(
    tmp_path: Path, complains: Any, columns: dict[str, Any], option: str
) -> None:
    path = export(tmp_path / "x.parquet", columns)
    with complains(path, option):
        listed(tmp_path)


def test_captions_of_another_type_are_refused(tmp_path: Path, complains: Any) -> None:
    path = export(tmp_path / "x.parquet", {"image": images(1), "text": [{"raw": "a dog"}]})
    with complains(path, "'text' holds struct"):
        listed(tmp_path, caption_column="text", label_column=None, templates=None)


@pytest.mark.parametrize(
    "changes",
    [{"label_column": None}, {"caption_column": "text"}],
    ids=["templates without classes", "two kinds of captions"],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    labelled(tmp_path / "x.parquet", [0], NAMES)
    with pytest.raises(ConfigError, match=r"prepare\.parquet\.templates"):
        listed(tmp_path, **changes)


@pytest.mark.parametrize("names", [["cat", "_"], ["polar bear", "polar_bear"]])
def test_classes_without_a_name_of_their_own_are_refused(
    tmp_path: Path, complains: Any, names: list[str]
) -> None:
    path = labelled(tmp_path / "x.parquet", [0, 1], names)
    with complains(path):
        listed(tmp_path)


def test_files_of_other_classes_do_not_belong_together(tmp_path: Path, complains: Any) -> None:
    labelled(tmp_path / "a.parquet", [0], NAMES)
    labelled(tmp_path / "b.parquet", [0], NAMES[::-1])
    with complains(tmp_path, "a.parquet", "b.parquet"):
        listed(tmp_path)


def test_several_data_sets_are_refused_by_their_folders(tmp_path: Path, complains: Any) -> None:
    for folder in ("plain", "other"):
        labelled(tmp_path / folder / "train-00000-of-00001.parquet", [0], NAMES)
    with complains(tmp_path, "other, plain"):
        listed(tmp_path)


def test_splits_without_one_for_training_are_refused(tmp_path: Path) -> None:
    labelled(tmp_path / "test-00000-of-00001.parquet", [0], NAMES)
    with pytest.raises(DataError, match="train"):
        listed(tmp_path)


def test_files_of_no_split_are_ignored_where_others_have_one(tmp_path: Path, log: Any) -> None:
    labelled(tmp_path / "train-00000-of-00001.parquet", [0], NAMES)
    labelled(tmp_path / "unsupervised-00000-of-00001.parquet", [1], NAMES)
    labelled(tmp_path / ".hidden.parquet", [1], NAMES)
    source = listed(tmp_path)
    assert sum(map(len, source.inputs.values())) == 1 and "unsupervised" in log.text


def test_a_row_group_that_no_worker_can_hold_is_refused(
    tmp_path: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.prepare.sources.parquet_files.MAX_GROUP_BYTES", 1000)
    columns = {"image": pyarrow.array([bytes(2000)]), "label": ["cat"]}
    path = export(tmp_path / "x.parquet", columns)
    with complains(path, "row group 0"):
        listed(tmp_path)


def test_files_of_splits_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        labelled(tmp_path / f"own_{split}-00000-of-00001.parquet", [0, 1], NAMES)
    assert [len(listed(tmp_path).inputs[split]) for split in ("train", "test")] == [2, 2]
    assert listed(tmp_path).inputs["val"].files == []  # type: ignore[attr-defined]
