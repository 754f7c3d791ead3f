"""A table of captions and a folder of images become samples, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.prepare.images import UnusableImage
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.readers.captions import clean_captions
from tests.helpers.captions_csv import JPEG, SPLITS, made, put, source, split_of


def test_an_image_has_all_of_its_captions_in_their_order(tmp_path: Path) -> None:
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


def test_one_file_has_one_name_however_it_is_spelled(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "sub/caf\u00e9.jpg", "cafe\u0301/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    absolute = [f"{tmp_path}/images/a.jpg", f"{tmp_path}/link/a.jpg"]
    spelled = {
        "a.jpg": ["a.jpg", "./a.jpg", ".//a.jpg", "sub/../a.jpg", *absolute],
        "sub/caf\u00e9.jpg": ["sub/caf\u00e9.jpg", "./sub/cafe\u0301.jpg", "sub//caf\u00e9.jpg"],
        "caf\u00e9/b.jpg": ["caf\u00e9/b.jpg", "cafe\u0301/./b.jpg"],
    }
    rows = [(name, name) for names in spelled.values() for name in names]
    samples = made(source(tmp_path, rows))
    assert {name: s.captions for name, s in samples.items() if isinstance(s, Sample)} == spelled
    assert set(samples) == set(spelled)
    alone = split_of(source(tmp_path, [(f"./{name}", "x") for name in spelled]))
    assert alone == split_of(source(tmp_path, rows))


def test_lists_of_captions_in_cells_are_split(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [("a.jpg", '["one", "two"]'), ("b.jpg", "['one', 'two']"), ("c.jpg", '[["one"]]')]
    results = made(source(tmp_path, rows))
    for name in ("a.jpg", "b.jpg"):
        sample = results[name]
        assert isinstance(sample, Sample) and sample.captions == ["one", "two"]
    assert isinstance(results["c.jpg"], Rejected) and "list" in results["c.jpg"].reason


def test_an_invisible_caption_is_none(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    results = made(source(tmp_path, [("a.jpg", "\u200b"), ("b.jpg", "\ufeff"), ("b.jpg", "x")]))
    assert results["a.jpg"] == Rejected("a.jpg", "no caption")
    assert isinstance(results["b.jpg"], Sample) and results["b.jpg"].captions == ["x"]


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "t.tsv").write_text('image\tcaption\na.jpg\t"Stop", it says\n', encoding="utf-8")
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


def test_a_parquet_table_that_cannot_be_read_is_reported_in_one_line(
    tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "t.parquet"
    with complains(path, "No such file", "prepare.captions_csv.table"):
        source(tmp_path, [], table="t.parquet")
    path.write_bytes(b"words")
    with complains(path, "no Parquet"):
        source(tmp_path, [], table="t.parquet")
    parquet.write_table(pyarrow.table({"image": [1], "caption": ["x"]}), path)
    with complains(path, "column 'image' holds int64; store"):
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
        (b'image,caption\na.jpg,"open\n', ["line", "quotes"]),
        (b'image,caption\na.jpg,"x" y\n', ["line 2", "quotes"]),
    ],
)
def test_a_table_that_cannot_be_read_is_reported_in_one_line(
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


def test_an_image_without_a_class_is_rejected_where_the_others_have_one(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    rows = [("a.jpg", "x", "dog"), ("b.jpg", "y", "")]
    results = made(source(tmp_path, rows, label_column="label"))
    assert isinstance(results["a.jpg"], Sample)
    assert isinstance(results["b.jpg"], Rejected) and "label" in results["b.jpg"].reason


def test_an_image_of_two_classes_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    rows = [("a.jpg", "x", "dog"), ("a.jpg", "y", "cat")]
    result = made(source(tmp_path, rows, label_column="label"))["a.jpg"]
    assert result == Rejected("a.jpg", "several labels (cat, dog)")


def test_one_class_has_one_name_however_it_is_spelled(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    labels = ["caf\u00e9 bar", " cafe\u0301  bar ", "caf\u00e9_bar", "\u200b"]
    rows = [(f"{name}.jpg", "x", label) for name, label in zip("abcd", labels, strict=True)]
    labelled = source(tmp_path, rows, label_column="label")
    assert labelled.classes == ["caf\u00e9 bar"]
    assert made(labelled)["d.jpg"] == Rejected("d.jpg", "no label")


@pytest.mark.parametrize("caption", ["a caf\ufffd", "a \udcff"])
def test_a_caption_in_the_wrong_encoding_is_rejected(caption: str) -> None:
    with pytest.raises(UnusableImage, match="wrong encoding"):
        clean_captions(["a dog", caption])


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "null", "<NA>"])
def test_what_programs_write_for_no_value_is_none(tmp_path: Path, cell: str) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    results = made(source(tmp_path, [("a.jpg", cell), ("b.jpg", f"a {cell}"), ("b.jpg", cell)]))
    assert results["a.jpg"] == Rejected("a.jpg", "no caption")
    assert results["b.jpg"].captions == [f"a {cell}"]  # type: ignore[union-attr]
