"""A folder of images with a table of captions: what is wrong in it, and what stays put."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from pipeline.config.source_params import CaptionsCsvParams
from pipeline.prepare.images import UnusableImage
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.naming import unique_keys
from pipeline.prepare.sources.captions_csv import captions_csv

SPLITS = ("train", "val", "test")
buffer = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(buffer, "JPEG")
JPEG = buffer.getvalue()

STEMS = st.text(st.sampled_from("ab-_. äß漢'é"), min_size=1, max_size=6)
FILES = st.builds("{}{}".format, STEMS, st.sampled_from([".jpg", ".png", ".JPG", ""])).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)


def source(folder: Path, rows: Iterable[tuple[str, ...]] | bytes, **options: Any) -> Source:
    """The source of a folder with this table: `image, caption, label` rows, or its very bytes."""
    (folder / "images").mkdir(exist_ok=True)
    if isinstance(rows, bytes):
        (folder / "captions.csv").write_bytes(rows)
    else:
        with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption", "label"), *rows])
    values = {
        "images": "images", "table": "captions.csv", "image_column": "image",
        "caption_column": "caption", "label_column": None, "val": 0.1, "test": 0.1,
    }  # fmt: skip
    return captions_csv(folder, CaptionsCsvParams(**values | options), 0, 64)


def put(folder: Path, *names: str, data: bytes = JPEG) -> None:
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def listed(source: Source) -> dict[str, tuple[str, Any]]:
    """Split and input of each image."""
    return {
        item.name if isinstance(item, Rejected) else item.file.name: (split, item)
        for split in SPLITS
        for item in source.inputs[split]
    }


def made(source: Source) -> dict[str, Sample | Rejected]:
    """What becomes of each image."""
    return {
        name: item if isinstance(item, Rejected) else source.make(item)
        for name, (_, item) in listed(source).items()
    }


def split_of(source: Source) -> dict[str, str]:
    return {name: split for name, (split, _) in listed(source).items()}


def test_a_image_has_all_of_its_captions_in_their_order(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "sub/b.jpg")
    rows = [("a.jpg", "one"), ("sub/b.jpg", "a  spacious\ttext "), ("a.jpg", ""), ("a.jpg", "two")]
    samples = made(source(tmp_path, rows))
    first = samples["a.jpg"]
    assert isinstance(first, Sample) and (first.key, first.jpeg) == ("a", JPEG)
    assert first.captions == ["one", "two"] and first.label is None
    assert samples["sub/b.jpg"].captions == ["a spacious text"]  # type: ignore[union-attr]


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    put(tmp_path, "ä.jpg")
    table = 'caption,image\r\n"a dog, a ""cat""",ä.jpg\r\n'
    sample = made(source(tmp_path, b"\xef\xbb\xbf" + table.encode()))["ä.jpg"]
    assert isinstance(sample, Sample) and sample.captions == ['a dog, a "cat"']


def test_lines_within_quotes_and_cells_that_are_missing_or_empty_are_read(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    table = 'image,caption\n\na.jpg,"a dog\r\n  on grass"\nb.jpg\na.jpg,two dogs,,\n'
    results = made(source(tmp_path, table.encode()))
    first = results["a.jpg"]
    assert isinstance(first, Sample) and first.captions == ["a dog on grass", "two dogs"]
    assert results["b.jpg"] == Rejected("b.jpg", "no caption")


def test_rows_of_one_name_make_one_image_and_keep_their_captions(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    source_of_two = source(tmp_path, [("a.jpg", "a dog"), ("a.jpg ", "a dog"), ("a.jpg", "b")])
    assert sum(len(source_of_two.inputs[split]) for split in SPLITS) == 1
    (sample,) = made(source_of_two).values()
    assert isinstance(sample, Sample) and sample.captions == ["a dog", "a dog", "b"]


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "t.tsv").write_text('image\tcaption\na.jpg\t"Stop", it says\n')
    sample = made(source(tmp_path, [], table="t.tsv"))["a.jpg"]
    assert isinstance(sample, Sample) and sample.captions == ['"Stop", it says']


def test_a_parquet_table_gives_what_the_same_csv_gives(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(20)]
    put(tmp_path, *names)
    rows = [(name, f"a dog, {name}", "dog") for name in names] + [(names[0], "", "dog")]
    columns = dict(zip(("image", "caption", "label"), zip(*rows, strict=True), strict=True))
    table = pyarrow.table({name: list(column) for name, column in columns.items()})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    from_parquet = source(tmp_path, rows, table="t.parquet", label_column="label")
    from_csv = source(tmp_path, rows, label_column="label")
    assert made(from_parquet) == made(from_csv)
    assert split_of(from_parquet) == split_of(from_csv)


def test_nulls_of_a_parquet_table_are_empty_texts(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    columns = {"image": ["a.jpg", "a.jpg", "b.jpg", None], "caption": [None, "a dog", None, "x"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    results = made(source(tmp_path, [], table="t.parquet"))
    assert isinstance(results["a.jpg"], Sample) and results["a.jpg"].captions == ["a dog"]
    assert results["b.jpg"] == Rejected("b.jpg", "no caption")
    assert results[""] == Rejected("", "has no name")


def test_a_parquet_table_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "t.parquet"
    with complains(path, "No such file", "prepare.captions_csv.table"):
        source(tmp_path, [], table="t.parquet")
    path.write_bytes(b"words")
    with complains(path, "no Parquet"):
        source(tmp_path, [], table="t.parquet")
    parquet.write_table(pyarrow.table({"image": [1], "caption": ["x"]}), path)
    with complains(path, "column 'image' holds int64; store texts"):
        source(tmp_path, [], table="t.parquet")
    parquet.write_table(pyarrow.table({"image": ["a"], "text": ["x"]}), path)
    with complains(path, "no column 'caption', its columns are image, text"):
        source(tmp_path, [], table="t.parquet")
    with complains("t.xlsx: is no .csv, .tsv or .parquet"):
        source(tmp_path, [], table="t.xlsx")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"file,text\na,b\n", ["no column 'image'", "its columns are file, text"]),
        (b"image\na.jpg\n", ["no column 'caption'", "its columns are image"]),
        (b"", ["no column 'image'", "its columns are none"]),
        ("image,caption\na.jpg,Löwe\n".encode("latin-1"), ["not UTF-8 (line 2, byte 21)"]),
        (
            b"image,caption\n" + b"a.jpg,x\n" * 5000 + b"a.jpg,\xff\n",
            ["not UTF-8 (line 5002, byte 40020)"],
        ),
        ("image,caption\na.jpg,x\n".encode("utf-16"), ["not UTF-8 (line 1, byte 0)"]),
        ("image,caption\n".encode("utf-16-le"), ["no column 'image'", r"'i\x00m\x00"]),
        (b"image,caption,caption\na,b,c\n", ["several columns are called 'caption'"]),
        (b"image,caption\na,x\na,a dog, a cat\n", ["line 3 has 3 cells, the header 2", "quotes"]),
        (b'image,caption\na.jpg,"open\n', ["line", "mend the quotes"]),
        (b'image,caption\na.jpg,"x" y\n', ["line 2", "mend the quotes"]),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, complains: Any, table: bytes, words: list[str]
) -> None:
    with complains(tmp_path / "captions.csv", *words):
        source(tmp_path, table)


def test_a_missing_folder_a_missing_table_and_a_missing_label_column_are_named(
    tmp_path: Path, complains: Any
) -> None:
    with complains(tmp_path / "photos", "prepare.captions_csv.images"):
        source(tmp_path, [], images="photos")
    with complains(tmp_path / "texts.csv", "No such file", "prepare.captions_csv.table"):
        source(tmp_path, [], table="texts.csv")
    with complains("no column 'kind'", "its columns are image, caption, label"):
        source(tmp_path, [], label_column="kind")


def truncated(path: Path) -> None:
    path.write_bytes(JPEG[: len(JPEG) // 2])


@pytest.mark.parametrize(
    ("name", "caption", "damage", "reason"),
    [
        ("a.jpg", " \t", lambda _: None, "no caption"),
        ("a.jpg", "a dog", Path.unlink, "no such file"),
        ("a.jpg", "a dog", truncated, "unreadable"),
        ("a.jpg", "a dog", lambda path: path.write_bytes(b"words"), "not an image"),
        ("../x.jpg", "a dog", lambda _: None, "outside the folder"),
        ("/etc/hostname", "a dog", lambda _: None, "outside the folder"),
        ("a\0b.jpg", "a dog", lambda _: None, "null"),
        ("", "a dog", lambda _: None, "has no name"),
        ("a" * 300 + ".jpg", "a dog", lambda _: None, "unreadable"),
    ],
)
def test_an_unusable_input_is_rejected_with_its_reason(
    tmp_path: Path, name: str, caption: str, damage: Callable[[Path], Any], reason: str
) -> None:
    put(tmp_path, "a.jpg", "../x.jpg")
    damage(tmp_path / "images" / "a.jpg")
    result = made(source(tmp_path, [(name, caption)]))[name]
    assert isinstance(result, Rejected) and result.name == name
    assert reason in result.reason


def test_a_link_that_leaves_the_folder_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "../secret.jpg")
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    assert isinstance(made(source(tmp_path, [("a.jpg", "a dog")]))["a.jpg"], Rejected)


def test_a_label_column_gives_classes(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [("a.jpg", "x", "dog"), ("b.jpg", "y", "cat"), ("c.jpg", "z", "dog")]
    labelled = source(tmp_path, rows, label_column="label")
    assert labelled.classes == ["cat", "dog"]
    labels = {name: sample.label for name, sample in made(labelled).items()}  # type: ignore[union-attr]
    assert labels == {"a.jpg": 1, "b.jpg": 0, "c.jpg": 1}
    assert source(tmp_path, rows).classes == []


def test_a_image_without_a_class_is_rejected_where_the_others_have_one(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    rows = [("a.jpg", "x", "dog"), ("b.jpg", "y", "")]
    results = made(source(tmp_path, rows, label_column="label"))
    assert isinstance(results["a.jpg"], Sample)
    assert isinstance(results["b.jpg"], Rejected) and "label" in results["b.jpg"].reason


def test_a_image_of_two_classes_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    rows = [("a.jpg", "x", "dog"), ("a.jpg", "y", "cat")]
    result = made(source(tmp_path, rows, label_column="label"))["a.jpg"]
    assert result == Rejected("a.jpg", "several labels (cat, dog)")


def test_space_around_a_class_name_makes_no_other_class(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    rows = [("a.jpg", "x", "dog"), ("b.jpg", "y", " dog ")]
    assert source(tmp_path, rows, label_column="label").classes == ["dog"]


@settings(max_examples=40, deadline=None)
@given(names=st.lists(FILES, min_size=1, max_size=12, unique=True))
def test_keys_are_unique_and_safe_whatever_files_are_called(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), *names)
        samples = made(source(Path(folder), [(name, "a dog") for name in names]))
    keys = [sample.key for sample in samples.values() if isinstance(sample, Sample)]
    assert len(keys) == len(names)
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)


def test_a_plain_name_is_its_own_key(tmp_path: Path) -> None:
    put(tmp_path, "IMG_0001.jpg", "twin.jpg", "twin.png")
    samples = made(source(tmp_path, [(n, "x") for n in ("IMG_0001.jpg", "twin.jpg", "twin.png")]))
    keys = {name: sample.key for name, sample in samples.items()}  # type: ignore[union-attr]
    assert keys["IMG_0001.jpg"] == "IMG_0001"
    assert keys["twin.jpg"] != keys["twin.png"]


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(FILES, min_size=1, max_size=30, unique=True),
    more=st.lists(FILES, min_size=1, max_size=5),
)
def test_adding_images_moves_no_other_one_to_another_split(
    names: list[str], more: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = split_of(source(folder, [(n, "x") for n in names], val=0.3, test=0.3))
        after = split_of(source(folder, [(n, "x") for n in more + names], val=0.3, test=0.3))
    assert set(before) == set(names)
    assert before.items() <= after.items()


def test_splits_have_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    splits = split_of(source(tmp_path, [(f"{n}.jpg", "x") for n in range(2000)], val=0.2, test=0.1))
    counts = {split: list(splits.values()).count(split) for split in SPLITS}
    assert counts["val"] == pytest.approx(400, abs=60)
    assert counts["test"] == pytest.approx(200, abs=50)


@pytest.mark.parametrize("caption", ["a caf\ufffd", "a \udcff"])
def test_a_caption_in_the_wrong_encoding_is_rejected(caption: str) -> None:
    with pytest.raises(UnusableImage, match="wrong encoding"):
        clean_captions(["a dog", caption])


def test_a_name_that_is_the_key_of_another_is_told(complains: Any) -> None:
    key = unique_keys(["a.jpg", "a.png"])["a.jpg"]
    with complains(f"a.jpg and {key}.jpg have the same key {key}"):
        unique_keys(["a.jpg", "a.png", f"{key}.jpg"])


def test_keys_of_many_names_in_another_script_differ() -> None:
    names = [f"{chr(0x4E00 + n // 500)}{chr(0x4E00 + n % 500)}.jpg" for n in range(200_000)]
    assert len(set(unique_keys(names).values())) == len(names)


def test_keys_of_many_images_that_share_their_stems_are_made_in_time() -> None:
    names = [f"{number}.{suffix}" for number in range(50_000) for suffix in ("jpg", "png")]
    start = time.monotonic()
    assert len(set(unique_keys(names).values())) == len(names)
    assert time.monotonic() - start < 10
