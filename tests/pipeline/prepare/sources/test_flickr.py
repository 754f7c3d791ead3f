"""Flickr8k and Flickr30k: token files and Karpathy's JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.source_params import FlickrParams
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.sources.flickr import flickr
from tests.helpers.sampling import made

SHARES = {"val": 0.2, "test": 0.2}


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "Images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / "Images" / name)


def listed(folder: Path, captions: str, shares: Any = None) -> Source:
    return flickr(folder, FlickrParams(images="Images", captions=captions, shares=shares), 0, 64)


def tokens(folder: Path, text: str | bytes) -> Path:
    path = folder / "all.token"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def karpathy(folder: Path, *images: Any) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    return path


def entry(name: str, split: str, **more: Any) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [{"raw": f"{name} ."}], **more}


def test_a_token_file_gives_images_their_captions(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    tokens(tmp_path, "a.jpg#0\tA dog .\r\nb.jpg#0\ta #1 cat\na.jpg#1\tTwo\tdogs\n\n")
    samples = made(listed(tmp_path, "all.token", SHARES))
    captions = {name: s.captions for name, s in samples.items() if isinstance(s, Sample)}
    assert captions == {"a.jpg": ["A dog .", "Two dogs"], "b.jpg": ["a #1 cat"]}


def test_an_image_that_flickr8k_names_and_lacks_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    tokens(tmp_path, "a.jpg#0\tA dog .\n2258277193_586949ec62.jpg.1#0\tpeople\n")
    gone = made(listed(tmp_path, "all.token", SHARES))["2258277193_586949ec62.jpg.1"]
    assert isinstance(gone, Rejected) and gone.reason == "no such file"


def test_karpathys_splits_are_the_official_ones(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "deep/d.jpg")
    karpathy(
        tmp_path,
        entry("a.jpg", "train"), entry("b.jpg", "val"), entry("c.jpg", "test"),
        entry("d.jpg", "restval", filepath="deep"),
    )  # fmt: skip
    source = listed(tmp_path, "dataset.json")
    assert set(made(source, "train")) == {"a.jpg", "deep/d.jpg"}
    assert set(made(source, "val")) == {"b.jpg"}
    assert set(made(source, "test")) == {"c.jpg"}
    assert all(isinstance(sample, Sample) for sample in made(source).values())


def test_a_sentence_of_null_is_no_caption(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    karpathy(tmp_path, entry("a.jpg", "train", sentences=[{"raw": None}, {"raw": "x"}]))
    (sample,) = made(listed(tmp_path, "dataset.json")).values()
    assert isinstance(sample, Sample) and sample.captions == ["x"]


def test_shares_replace_the_splits_of_the_file(tmp_path: Path) -> None:
    karpathy(tmp_path, *(entry(f"{n}.jpg", "train") for n in range(200)))
    (tmp_path / "Images").mkdir()
    source = listed(tmp_path, "dataset.json", SHARES)
    assert len(source.inputs["test"]) == pytest.approx(40, abs=20)


def test_an_image_that_is_listed_twice_is_rejected_once(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    karpathy(tmp_path, entry("a.jpg", "train"), entry("a.jpg", "test"))
    source = listed(tmp_path, "dataset.json")
    assert isinstance(made(source, "train")["a.jpg"], Sample)
    assert made(source, "test") == {"a.jpg": Rejected("a.jpg", "listed twice in dataset.json")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg#0\tfine\na.jpg A dog\n", "line 2"),
        (
            ("b.jpg#0\tx\n" * 9999 + "a.jpg#0\tLöwe\n").encode("latin-1"),
            "not UTF-8 (line 10000, byte 99999)",
        ),
        ("a.jpg#0\tx\n".encode("utf-16"), "not UTF-8 (line 1, byte 0)"),
    ],
)
def test_a_token_file_that_is_none_is_reported_in_one_line(
    tmp_path: Path, complains: Any, text: str | bytes, words: str
) -> None:
    path = tokens(tmp_path, text)
    with complains(path, words):
        listed(tmp_path, "all.token", SHARES)


@pytest.mark.parametrize("image", [{}, 1, entry("a.jpg", "training"), {"filename": "a"}])
def test_json_that_is_not_karpathys_is_reported_in_one_line(
    tmp_path: Path, complains: Any, image: Any
) -> None:
    with complains(karpathy(tmp_path, image), "Karpathy"):
        listed(tmp_path, "dataset.json")


def test_a_token_file_without_shares_and_missing_files_are_named(
    tmp_path: Path, complains: Any
) -> None:
    with complains(tmp_path / "all.token", "No such file", "prepare.flickr.captions"):
        listed(tmp_path, "all.token")
    with complains(tokens(tmp_path, "a.jpg#0\tx\n"), "prepare.flickr.shares"):
        listed(tmp_path, "all.token")
    with complains(tmp_path / "Images", "prepare.flickr.images"):
        listed(tmp_path, "all.token", SHARES)


def test_all_photographs_of_flickr8k_come_out(
    shared_data: Path, tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "Images").symlink_to(shared_data / "flickr8k_1k" / "images")
    with open(shared_data / "flickr8k_1k" / "captions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokens(own, "".join(f"{r['image']}#{n % 5}\t{r['caption']}\n" for n, r in enumerate(rows)))
    section = {"images": "Images", "captions": "all.token", "shares": {"val": 0.1, "test": 0.1}}
    changes = {"source": "flickr", "path": str(own), "flickr": section, "samples_per_shard": 200}
    write_image_shards(make_params(prepare=changes | {"max_rejected": 0}).prepare, tmp_path / "out")
    assert sum(Dataset.read(tmp_path / "out").samples.values()) == 1000
