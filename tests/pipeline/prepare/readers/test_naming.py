"""Keys are unique and safe, and a split follows from a name alone."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prepare.readers.base import Sample
from pipeline.prepare.readers.naming import unique_keys
from tests.helpers.captions_csv import SPLITS, made, put, source, split_of

STEMS = st.text(st.sampled_from("ab-_. äß漢'é"), min_size=1, max_size=6)


FILES = st.builds("{}{}".format, STEMS, st.sampled_from([".jpg", ".png", ".JPG", ""])).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(FILES, min_size=1, max_size=12, unique=True))
def test_keys_are_unique_and_safe_whatever_the_names_of_files(names: list[str]) -> None:
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


def test_a_name_that_is_the_key_of_another_is_reported(complains: Any) -> None:
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
