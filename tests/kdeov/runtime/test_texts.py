"""Texts of an export are embedded as the model embeds them."""

from __future__ import annotations

import tracemalloc
import unicodedata

import numpy as np
import pytest

from kdeov.runtime.card import BPE, GOLDEN, TABLE_EMBEDDINGS, TABLE_TEXTS, TEXT, read_card
from kdeov.runtime.texts import open_texts
from tests.helpers.exported import TABLE_TEXTS as LISTED
from tests.kdeov.runtime.copies import golden_arrays, npy, npz

TEXTS = ["a photo of a cat", "Two DOGS,  on a beach!", "", "café 猫 \U0001f431", "long " * 200]
NAMES = ["cat", "{}", "a {b} c", 'the "quoted"', "two\nlines", "  spaces  ", "cafe\u0301", "<b>"]


@pytest.fixture(scope="module")
def texts(tower):
    return open_texts(tower.folder, read_card(tower.folder))


def apart(found, tensor):
    """The largest difference; the exported weights have half the digits."""
    return np.abs(found - tensor.detach().numpy()).max()


def test_embeddings_of_texts_are_those_of_the_model(texts, tower):
    found = texts(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 32), np.float32)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert apart(found, tower.model.encode_text(TEXTS)) < 1e-3
    assert np.allclose(texts(TEXTS[0]), found[:1], atol=1e-6)
    assert np.allclose(texts(text for text in TEXTS), found, atol=1e-6)


@pytest.mark.parametrize("templates", ["a photo of a {}.", "openai-7", ["{}", "it's a {}!"]])
def test_class_embeddings_are_those_of_the_model(texts, tower, templates):
    found = texts.class_embeddings(NAMES, templates)
    expected = tower.model.text_encoder.class_embeddings(NAMES, templates)
    assert (found.shape, found.dtype) == ((len(NAMES), 32), np.float32)
    assert apart(found, expected) < 1e-3
    mapping = dict(enumerate(NAMES))
    assert np.allclose(texts.class_embeddings(mapping, templates), found, atol=1e-6)


def test_batches_do_not_change_embeddings(texts):
    names = [f"thing {number}" for number in range(150)]
    all_at_once = texts.class_embeddings(names, "openai-7")
    for number in (0, 63, 64, 149):
        alone = texts.class_embeddings([names[number]], "openai-7")
        assert np.allclose(all_at_once[number], alone[0], atol=1e-5)


@pytest.mark.slow
def test_ten_thousand_labels_fit_in_bounded_memory(texts):
    texts.class_embeddings(["warm", "up"], "simple")
    tracemalloc.start()
    found = texts.class_embeddings([f"label {number}" for number in range(10_000)], "simple")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (10_000, 32) and np.isfinite(found).all()
    assert peak < 64e6  # bytes; tokens and outputs of all at once were more


@pytest.mark.parametrize("wrong", [[], 3, b"cat", {"cat"}, {"cat": 1}, ["cat", None], [["cat"]]])
def test_what_is_no_text_is_reported(texts, wrong, mistake):
    with mistake("text"):
        texts(wrong)


@pytest.mark.parametrize(
    ("names", "templates"),
    [
        ([], "simple"), ("cat", "simple"), ([" "], "simple"), ([3], "simple"), ({"a"}, "simple"),
        (["cat"], "simpel"), (["cat"], []), (["cat"], ["no place"]), (["cat"], ["{} {}"]),
    ],
)  # fmt: skip
def test_names_and_templates_that_name_nothing_are_reported(texts, names, templates, mistake):
    with mistake("name" if templates == "simple" else "template"):
        texts.class_embeddings(names, templates)


def test_a_table_gives_its_embeddings_in_any_spelling(table):
    texts = open_texts(table.folder, read_card(table.folder))
    again = [f" {unicodedata.normalize('NFD', text)}\n" for text in LISTED]
    expected = table.model.encode_text(list(LISTED))
    assert apart(texts(LISTED), expected) < 1e-6
    assert apart(texts(again), expected) < 1e-6
    assert apart(texts.class_embeddings(["cat", "dog"], "a photo of a {}"), expected[:2]) < 1e-6


def test_an_unknown_text_of_a_table_is_reported_with_known_ones(table, mistake):
    texts = open_texts(table.folder, read_card(table.folder))
    with mistake("'a zebra'", LISTED[0], table.folder):
        texts(["a zebra"])
    with mistake("'a photo of a zebra'"):
        texts.class_embeddings(["zebra"], "a photo of a {}")


def opened(folder):
    return open_texts(folder, read_card(folder))


def test_a_tower_that_gives_other_embeddings_is_reported(tower, altered, mistake):
    golden = golden_arrays(tower.folder)
    golden["text_embedding"] = golden["text_embedding"][::-1]
    folder = altered(tower.folder, {GOLDEN: npz(golden)})
    with mistake(folder / TEXT, "CPU", "cosine"):
        opened(folder)


def test_a_tokenizer_that_gives_other_tokens_is_reported(tower, altered, mistake):
    golden = golden_arrays(tower.folder)
    golden["texts"] = golden["texts"][::-1]
    folder = altered(tower.folder, {GOLDEN: npz(golden)})
    with mistake(folder / BPE, "tokens"):
        opened(folder)


def test_the_self_test_reports_no_cut(tower, caplog):
    texts = opened(tower.folder)
    assert caplog.messages == []
    texts(["long " * 200])
    assert len(caplog.messages) == 1 and "77 tokens" in caplog.text


@pytest.mark.parametrize("name", [TEXT, BPE, GOLDEN])
def test_a_missing_or_truncated_file_of_a_tower_is_reported(name, tower, altered, mistake):
    folder = altered(tower.folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with mistake(folder / name, "sha256"):
        opened(folder)
    (folder / name).unlink()
    with mistake(folder / name, "No such file"):
        opened(folder)


@pytest.mark.parametrize("name", [TEXT, BPE, GOLDEN])
def test_a_file_that_its_card_calls_whole_may_be_damaged_all_the_same(
    name, tower, altered, mistake
):
    whole = (tower.folder / name).read_bytes()
    folder = altered(tower.folder, {name: whole[: len(whole) // 2]})
    with mistake(folder / name):
        opened(folder)


@pytest.mark.parametrize(
    "files",
    [
        {TABLE_TEXTS: b"{"},
        {TABLE_TEXTS: b"[]"},
        {TABLE_EMBEDDINGS: b"text"},
        {TABLE_EMBEDDINGS: npy(np.zeros((4, 31), np.float32))},
        {TABLE_EMBEDDINGS: npy(np.array([None]))},
        {TABLE_EMBEDDINGS: None},
    ],
)
def test_a_damaged_table_is_reported(files, table, altered, mistake):
    folder = altered(table.folder, files)
    with mistake(folder):
        opened(folder)
