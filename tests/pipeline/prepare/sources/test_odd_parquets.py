"""Parquet files that cannot be a data set are refused in one line that names file and column."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from kdeov.errors import ConfigError, DataError, StorageError
from pipeline.prepare.readers.base import Rejected
from pipeline.prepare.readers.remote.bucket_folder import listed_bucket
from pipeline.prepare.sources.parquet import parquet
from pipeline.storage.bucket import BucketStorage
from tests.helpers.bucket_data import put_folder
from tests.helpers.parquets import export, images, labelled, listed, options
from tests.helpers.sampling import made

NAMES = ["cat", "dog"]
CAPTIONED: dict[str, Any] = {"caption_column": "text", "label_column": None, "templates": None}


def not_utf8(count: int) -> pyarrow.Array:
    """A column of texts, of which the first alone is Latin-1."""
    data = pyarrow.array([b"caf\xe9"] + [b"cat"] * (count - 1))
    return pyarrow.Array.from_buffers(pyarrow.string(), count, data.buffers())


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
        listed(tmp_path, **CAPTIONED)


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


def test_files_of_other_classes_do_not_belong_together(
    tmp_path: Path, complains: Any, bucket: str
) -> None:
    labelled(tmp_path / "a.parquet", [0], NAMES)
    labelled(tmp_path / "b.parquet", [0], NAMES[::-1])
    with complains(tmp_path, "a.parquet", "b.parquet"):
        listed(tmp_path)
    put_folder(tmp_path, bucket)
    with listed_bucket(BucketStorage(bucket)) as folder, complains(f"{bucket}: a.parquet and b."):
        parquet(folder, options(), 0, 64)


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


@pytest.mark.parametrize("changes", [CAPTIONED, {}], ids=["captions", "labels"])
def test_a_text_that_is_not_utf8_rejects_its_row_alone(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    export(tmp_path / "x.parquet", {"image": images(3), "text": not_utf8(3), "label": not_utf8(3)})
    source = listed(tmp_path, **changes)
    assert source.classes == ([] if changes else ["cat"])
    (name, bad), *others = made(source).items()
    assert isinstance(bad, Rejected) and "UTF-8" in bad.reason and name == "x.parquet/0"
    assert len(others) == 2 and not any(isinstance(sample, Rejected) for _, sample in others)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = labelled(tmp_path / "x.parquet", [0], NAMES)
    path.rename(tmp_path / "\udcff.parquet")
    with pytest.raises(DataError, match="parquet: no Parquet that can be read"):
        listed(tmp_path)


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    labelled(tmp_path / "data.parquet" / "part-0.parquet", [0, 1], NAMES)
    assert len(listed(tmp_path).inputs["train"]) == 2


@pytest.mark.parametrize(
    "kind", [pyarrow.list_(pyarrow.string(), 2), pyarrow.large_list(pyarrow.string_view())]
)
def test_lists_of_captions_may_have_any_layout(tmp_path: Path, kind: pyarrow.DataType) -> None:
    columns = {"image": images(2), "text": pyarrow.array([["a", "b"], ["c", None]], kind)}
    export(tmp_path / "x.parquet", columns)
    samples = made(listed(tmp_path, **CAPTIONED)).values()
    assert [getattr(sample, "captions", None) for sample in samples] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), pyarrow.ArrowMemoryError("malloc failed")]
)
def test_a_row_group_that_the_disk_does_not_give_is_tried_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    labelled(tmp_path / "x.parquet", [0, 1], NAMES)
    source = listed(tmp_path)

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read_row_group", fails)
    assert all(isinstance(s, Rejected) and s.unread for s in made(source).values())


def test_a_bucket_that_fails_ends_the_stage_and_rejects_nothing(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled(tmp_path / "x.parquet", [0, 1], NAMES)
    put_folder(tmp_path, bucket)
    storage = BucketStorage(bucket)
    with listed_bucket(storage) as folder:
        source = parquet(folder, options(), 0, 64)

    def fails(*_: object) -> bytes:
        raise StorageError(f"{bucket}/x.parquet cannot be read")

    monkeypatch.setattr(BucketStorage, "_read_range", fails)
    with pytest.raises(StorageError, match=bucket):
        made(source)


def test_files_of_splits_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        labelled(tmp_path / f"own_{split}-00000-of-00001.parquet", [0, 1], NAMES)
    assert [len(listed(tmp_path).inputs[split]) for split in ("train", "test")] == [2, 2]
    assert listed(tmp_path).inputs["val"].files == []  # type: ignore[attr-defined]
