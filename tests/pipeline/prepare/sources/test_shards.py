"""Webdataset tars from elsewhere: read in place, checked member by member, bytes kept."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shards import read_shard
from pipeline.config.params import Params
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected, Sample
from tests.helpers.sampling import made
from tests.helpers.tars import JPEG, encoded, link, listed, pack, pair


def test_samples_of_img2dataset_keep_key_caption_and_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "00000.tar", *pair("000000000"), *pair("000000001", "two  cats"))
    pack(tmp_path / "00001.tar", *pair("000010000", "Löwe"))
    (tmp_path / "00000_stats.json").write_text("{}", encoding="utf-8")
    samples = {n: s for n, s in made(listed(tmp_path)).items() if isinstance(s, Sample)}
    assert {name: (s.key, s.captions) for name, s in samples.items()} == {
        "00000.tar/000000000": ("000000000", ["a dog"]),
        "00000.tar/000000001": ("000000001", ["two cats"]),
        "00001.tar/000010000": ("000010000", ["Löwe"]),
    }
    assert all(sample.jpeg == JPEG for sample in samples.values())


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ([("a.json", b'{"caption": "x"}'), ("a.png", encoded("PNG"))], ["x"]),
        ([("a.webp", encoded("WEBP")), ("a.json", b'{"captions": ["x", "y"]}')], ["x", "y"]),
        ([("a.jpeg", JPEG), ("a.txt", b"x"), ("a.json", b"no json"), ("a.cls", b"3")], ["x"]),
    ],
)
def test_captions_come_from_text_or_description(
    tmp_path: Path, members: Any, captions: list[str]
) -> None:
    pack(tmp_path / "0.tar", *members)
    (sample,) = made(listed(tmp_path)).values()
    assert isinstance(sample, Sample) and sample.captions == captions


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "no image"),
        ([("a.jpg", JPEG)], "no caption"),
        ([("a.jpg", JPEG), ("a.txt", b" \n")], "no caption"),
        ([("a.jpg", JPEG), ("a.txt", "Löwe".encode("latin-1"))], "not UTF-8"),
        ([("a.jpg", JPEG), ("a.json", b"{")], "JSON mapping"),
        ([("a.jpg", JPEG), ("a.json", b"[1]")], "JSON mapping"),
        ([("a.jpg", JPEG), ("a.json", b'{"caption": 5}')], "a caption"),
        ([("a.jpg", JPEG), ("a.json", b'{"captions": [5]}')], "a caption"),
        ([("a.jpg", b"words"), ("a.txt", b"x")], "not an image"),
        ([("a.jpg", b""), ("a.txt", b"x")], "an empty file"),
        ([("a.jpg", JPEG), ("a.png", JPEG), ("a.txt", b"x")], "two files of one kind"),
    ],
)
def test_a_sample_that_cannot_be_used_is_rejected_with_its_reason(
    tmp_path: Path, members: Any, reason: str
) -> None:
    pack(tmp_path / "0.tar", *members)
    ((name, result),) = made(listed(tmp_path)).items()
    assert name == "0.tar/a"
    assert isinstance(result, Rejected) and reason in result.reason


def test_a_key_that_occurs_again_is_rejected_by_name(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", *pair("a"), *pair("b"), *pair("a"))
    pack(tmp_path / "1.tar", *pair("b"))
    source = listed(tmp_path, 0, 0)
    results = [i if isinstance(i, Rejected) else source.make(i) for i in source.inputs["train"]]
    assert [r.key for r in results if isinstance(r, Sample)] == ["a", "b"]
    rejected = [r for r in results if isinstance(r, Rejected)]
    assert rejected == [
        Rejected("0.tar/a", "its key occurs twice"),
        Rejected("1.tar/b", "its key occurs twice"),
    ]


def test_folders_of_splits_are_the_official_ones_and_may_share_keys(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pack(tmp_path / split / "0.tar", *(m for n in range(50) for m in pair(f"{n}")))
    source = listed(tmp_path, val=0.5)
    assert len(source.inputs["val"]) == 50
    assert len(source.inputs["train"]) + len(source.inputs["test"]) == 50
    assert all(isinstance(sample, Sample) for sample in made(source).values())
    assert {name.split("/")[0] for name in made(source, "val")} == {"val"}


@pytest.mark.parametrize(
    "member",
    [
        ("../a.jpg", JPEG),
        ("/etc/a.jpg", JPEG),
        ("deep/a.jpg", JPEG),
        link("a.jpg", tarfile.SYMTYPE, "/etc/hostname"),
        link("a.jpg", tarfile.LNKTYPE, "b.jpg"),
        link("a.jpg", tarfile.CHRTYPE),
        ("./../a.jpg", JPEG),
        ("a/../a.jpg", JPEG),
        ("./deep/a.jpg", JPEG),
    ],
)
def test_members_with_paths_and_links_are_refused(
    tmp_path: Path, complains: Any, member: Any
) -> None:
    path = pack(tmp_path / "0.tar", *pair("x"), member)
    with complains(path, "is refused"):
        listed(tmp_path)


def test_missing_and_damaged_tars_are_named(
    tmp_path: Path, complains: Any, make_params: Callable[..., Params]
) -> None:
    with complains(tmp_path, "no .tar in this folder"):
        listed(tmp_path)
    path = pack(tmp_path / "0.tar", *pair("x"))
    path.write_bytes(path.read_bytes()[:700])
    with complains(path, "damaged tar"):
        listed(tmp_path)
    path.write_bytes(b"words" * 200)
    with complains(path, "damaged tar"):
        listed(tmp_path)
    section = {"source": "shards", "path": "pipe:touch x", "shards": {"val": 0.1, "test": 0.1}}
    with complains("pipe:touch x", "no .tar"):
        write_image_shards(make_params(prepare=section).prepare, tmp_path / "out")


def test_tars_go_through_prepare_to_the_same_bytes(
    tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    own = tmp_path / "own"
    for number in range(3):
        members = (m for n in range(20) for m in pair(f"{number}{n:02d}", f"image {n}"))
        pack(own / f"{number}.tar", *members)
    section = {"source": "shards", "path": str(own), "shards": {"val": 0.3, "test": 0.3}}
    params = make_params(prepare=section)
    found = []
    for name in ("1", "2"):
        out = tmp_path / name
        write_image_shards(params.prepare, out)
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert found[0] == found[1]
    assert sum(Dataset.read(tmp_path / "1").samples.values()) == 60
    for _, sample in read_shard(tmp_path / "1" / "train" / "000000.tar"):
        assert sample["jpg"] == JPEG


def test_a_tar_that_vanishes_or_changes_after_the_listing_rejects_its_samples(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        pack(tmp_path / f"{name}.tar", *pair(f"{name}1"))
    source = listed(tmp_path)
    (tmp_path / "a.tar").unlink()
    pack(tmp_path / "b.tar", *pair("b0"), *pair("b1"))
    reasons = {n: s.reason for n, s in made(source).items() if isinstance(s, Rejected)}
    assert reasons.keys() == {"a.tar/a1", "b.tar/b1"}
    assert "vanished" in reasons["a.tar/a1"] and "changed" in reasons["b.tar/b1"]


def test_inputs_have_the_version_of_their_tar(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(tmp_path / f"{name}.tar", *pair(f"{name}1"))
    before = {m.tar: m for rows in listed(tmp_path).inputs.values() for m in rows}
    pack(tmp_path / "b.tar", *pair("b1", "a larger caption" * 50))
    after = {m.tar: m for rows in listed(tmp_path).inputs.values() for m in rows}
    assert before["a.tar"] == after["a.tar"]
    assert before["b.tar"].version != after["b.tar"].version
