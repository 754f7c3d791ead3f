"""The card of an export is read as it was written, or not at all."""

from __future__ import annotations

import json

import pytest

from kdeov.runtime.card import (
    CARD,
    Card,
    DetectionCard,
    TextCard,
    TokenizerCard,
    read_card,
    require_file,
    write_card,
)
from kdeov.weights.digests import digest

CARD_VALUES = Card(
    name="small",
    backbone_type="yolov8n",
    embed_dim=32,
    stride=32,
    dense_stride=8,
    transform={"size": 64, "interpolation": "bicubic"},
    text=TextCard("tower", "ab" * 32, 100.0, TokenizerCard(special_tokens=("<a>", "<b>"))),
    parity={"image.onnx": {"cosine": 1.0}},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "image.onnx").write_bytes(b"model")
    write_card(tmp_path, CARD_VALUES, ["image.onnx"])
    return tmp_path


def changed(folder, **values):
    """Rewrites the card with a valid digest."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    del card["digest"]
    card.update(values)
    card["digest"] = digest(card)
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


def test_a_card_is_read_as_it_was_written(folder):
    card = read_card(folder)
    assert list(card.files) == ["image.onnx"]
    assert card == Card(**{**vars(CARD_VALUES), "files": card.files})
    assert require_file(folder, card, "image.onnx") == folder / "image.onnx"


def test_a_card_of_a_table_has_no_tokenizer(folder):
    write_card(folder, Card(**{**vars(CARD_VALUES), "text": TextCard("table", "0", 1.0)}), [])
    assert "tokenizer" not in json.loads((folder / CARD).read_text(encoding="utf-8"))["text"]
    assert read_card(folder).text.tokenizer is None


def test_a_card_says_what_the_box_head_is(folder):
    head = DetectionCard(640, 20.0, -10.0, 0.5, ("person", "dog"))
    write_card(folder, Card(**{**vars(CARD_VALUES), "detection": head}), [])
    assert read_card(folder).detection == head


def test_a_card_without_a_box_head_is_as_those_of_before_there_were_any(folder):
    assert "detection" not in json.loads((folder / CARD).read_text(encoding="utf-8"))
    assert read_card(folder).detection is None


def test_reading_a_card_reads_no_other_file(folder):
    (folder / "image.onnx").unlink()
    assert read_card(folder).name == "small"


def test_a_missing_folder_is_reported_with_the_commands_that_write_it(tmp_path, mistake):
    for path in (tmp_path / "none", tmp_path):
        with mistake(path, "dvc repro export", "kdeov export"):
            read_card(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "[" * 5000, "\ud800"])
def test_a_damaged_card_is_reported(content, folder, mistake):
    (folder / CARD).write_bytes(content.encode("utf-8", "surrogatepass"))
    with mistake(folder / CARD):
        read_card(folder)


def test_an_edited_card_is_reported(folder, mistake):
    text = (folder / CARD).read_text(encoding="utf-8")
    (folder / CARD).write_text(text.replace('"embed_dim": 32', '"embed_dim": 64'), encoding="utf-8")
    with mistake(folder / CARD, "edited"):
        read_card(folder)


def test_another_format_is_reported(folder, mistake):
    changed(folder, format=2)
    with mistake(folder / CARD, "format 2"):
        read_card(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"text": 3}, {"text": {"kind": "tower"}}, {"text": {"new": 1}}, {"detection": 3},
        {"detection": {"image_size": 640, "boxes_seen": []}},
    ],
)  # fmt: skip
def test_a_card_of_other_fields_is_reported(values, folder, mistake):
    changed(folder, **values)
    with mistake(folder / CARD):
        read_card(folder)


def test_a_file_that_does_not_fit_its_card_is_reported(folder, mistake):
    card = read_card(folder)
    with mistake(folder, "no dense.onnx"):
        require_file(folder, card, "dense.onnx")
    (folder / "image.onnx").write_bytes(b"other")
    with mistake(folder / "image.onnx", "sha256"):
        require_file(folder, card, "image.onnx")
    (folder / "image.onnx").unlink()
    with mistake(folder / "image.onnx", "No such file"):
        require_file(folder, card, "image.onnx")
