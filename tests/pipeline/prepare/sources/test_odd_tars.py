"""Harmless members of tars are read or passed over; what is lost is counted and named."""

from __future__ import annotations

import errno
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shards import KEY
from pipeline.prepare.readers.base import Rejected, Sample
from tests.helpers.sampling import made
from tests.helpers.tars import JPEG, encoded, link, listed, pack, pair


def captions(folder: Path) -> dict[str, list[str]]:
    samples = made(listed(folder))
    return {name: s.captions for name, s in samples.items() if isinstance(s, Sample)}


def reasons(folder: Path) -> dict[str, str]:
    return {n: r.reason for n, r in made(listed(folder)).items() if isinstance(r, Rejected)}


def test_a_tar_of_a_folder_is_read(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, data in pair("a") + pair("b", "a cat"):
        (own / name).write_bytes(data)
    for name in ("._a.jpg", ".DS_Store"):
        (own / name).write_bytes(b"\0\5\x16\7")
    (own / "deep").mkdir()
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(own, ".", filter=lambda info: info)  # in the order of names
    assert captions(tmp_path) == {"0.tar/a": ["a dog"], "0.tar/b": ["a cat"]}
    assert reasons(tmp_path) == {}


@pytest.mark.parametrize(
    "key", ["a dog", "große", "漢", "a+b", "100%", "a\\b", "it's", "a:b", "(1)"]
)
def test_a_key_may_be_spelled_in_any_way(tmp_path: Path, key: str) -> None:
    pack(tmp_path / "0.tar", *pair(key), *pair("plain"))
    samples = made(listed(tmp_path))
    sample, plain = samples[f"0.tar/{key}"], samples["0.tar/plain"]
    assert isinstance(sample, Sample) and isinstance(plain, Sample)
    assert KEY.match(sample.key) and sample.jpeg == JPEG and sample.captions == ["a dog"]
    assert plain.key == "plain"


def test_keys_that_are_spelled_alike_stay_apart(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", *pair("a b"), *pair("a+b"), *pair("a_b"))
    keys = {s.key for s in made(listed(tmp_path)).values() if isinstance(s, Sample)}
    assert len(keys) == 3 and "a_b" in keys


def test_a_key_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", *pair("caf\udce9"))
    (reason,) = reasons(tmp_path).values()
    assert "UTF-8" in reason


def test_images_with_several_dots_are_rejected_by_name(tmp_path: Path) -> None:
    dotted = [
        m for n in range(150) for m in ((f"frame.{n:04d}.jpg", JPEG), (f"frame.{n:04d}.txt", b"x"))
    ]
    pack(tmp_path / "0.tar", *dotted, *(m for n in range(200) for m in pair(f"{n}")))
    source = listed(tmp_path)
    assert sum(len(source.inputs[split]) for split in SPLITS) == 350
    assert set(reasons(tmp_path)) == {f"0.tar/frame.{n:04d}.jpg" for n in range(150)}
    assert all("dots" in reason for reason in reasons(tmp_path).values())


def test_members_of_unknown_suffixes_are_counted_and_named(tmp_path: Path, log: Any) -> None:
    members = [
        ("a.cls", b"3"),
        ("a.jpg", JPEG),
        ("a.seg.npy", b""),
        ("a.txt", b"x"),
        ("b.cls", b""),
    ]
    pack(tmp_path / "0.tar", *members)
    assert captions(tmp_path) == {"0.tar/a": ["x"]}
    assert reasons(tmp_path) == {"0.tar/b": "no image"}
    assert (
        "2 .cls (such as 0.tar/a.cls)" in log.text
        and "1 .npy (such as 0.tar/a.seg.npy)" in log.text
    )


def test_other_formats_of_images_are_read(tmp_path: Path) -> None:
    members = [
        ("a.GIF", encoded("GIF")),
        ("a.txt", b"x"),
        ("b.gif", b""),
        ("b.jpg", JPEG),
        ("b.txt", b"y"),
    ]
    pack(tmp_path / "0.tar", *members)
    assert captions(tmp_path) == {"0.tar/a": ["x"], "0.tar/b": ["y"]}


def test_a_blank_text_leaves_the_caption_to_the_description(tmp_path: Path) -> None:
    for number, blank in enumerate((b"", b" \n", "\u200b".encode(), b"\xef\xbb\xbf")):
        members = [("a.jpg", JPEG), ("a.json", b'{"caption": "x"}'), ("a.txt", blank)]
        pack(tmp_path / str(number) / "0.tar", *members)
        assert captions(tmp_path / str(number)) == {"0.tar/a": ["x"]}
    description = b'{"caption": " ", "captions": ["y", null]}'
    pack(tmp_path / "own" / "0.tar", ("a.jpg", JPEG), ("a.json", description))
    assert captions(tmp_path / "own") == {"0.tar/a": ["y"]}


def test_a_tar_that_is_not_sorted_is_to_be_sorted(tmp_path: Path, complains: Any) -> None:
    names = ("jpg", "json", "txt")
    members = [pair(f"{n}")[kind] for kind in range(len(names)) for n in range(3)]
    path = pack(tmp_path / "0.tar", *members)
    with complains(path, "sort"):
        listed(tmp_path)


@pytest.mark.parametrize("name", ["1.tar.gz", "1.TGZ", "1.tar.zst"])
def test_a_compressed_tar_is_refused_by_name(tmp_path: Path, complains: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with complains(tmp_path / name, "unpack"):
        listed(tmp_path)
    pack(tmp_path / "0.tar", *pair("a"))
    with complains(tmp_path / name, "unpack"):
        listed(tmp_path)


def test_folders_of_splits_are_found_in_any_case(tmp_path: Path, complains: Any, log: Any) -> None:
    pack(tmp_path / "Training" / "0.TAR", *pair("a"))
    pack(tmp_path / "Validation" / "0.tar", *pair("b"))
    source = listed(tmp_path, 0.5, 0)
    assert set(made(source, "train")) == {"Training/0.TAR/a"}
    assert set(made(source, "val")) == {"Validation/0.tar/b"}
    pack(tmp_path / "extra" / "0.tar", *pair("c"))
    assert len(made(listed(tmp_path))) == 2 and "extra" in log.text
    pack(tmp_path / "1.tar", *pair("d"))
    with complains(tmp_path, "1.tar"):
        listed(tmp_path)
    (tmp_path / "1.tar").unlink()
    (tmp_path / "Training").rename(tmp_path / "more")
    with complains(tmp_path, "Validation", "train"):
        listed(tmp_path)


@pytest.mark.parametrize("name", ["../.a.jpg", "deep/../.a.jpg", "/.a.jpg", "..", "./.."])
def test_a_hidden_member_may_not_lead_elsewhere(tmp_path: Path, complains: Any, name: str) -> None:
    pack(tmp_path / "0.tar", ("__MACOSX/._a.jpg", b""), (".a.jpg", b""), *pair("a"))
    assert len(made(listed(tmp_path))) == 1
    path = pack(tmp_path / "0.tar", *pair("a"), (name, JPEG))
    with complains(path, "is refused"):
        listed(tmp_path)


def test_links_stay_refused_beside_folders(tmp_path: Path, complains: Any) -> None:
    pack(tmp_path / "0.tar", link("./", tarfile.DIRTYPE), link("deep", tarfile.DIRTYPE), *pair("a"))
    assert len(captions(tmp_path)) == 1
    path = pack(
        tmp_path / "0.tar", link("./", tarfile.DIRTYPE), link("a.jpg", tarfile.SYMTYPE, "b")
    )
    with complains(path, "is refused"):
        listed(tmp_path)


def test_a_sample_that_the_disk_does_not_give_is_tried_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "0.tar", *pair("a", "a dog"))
    source = listed(tmp_path)

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.pread", fails)
    assert all(isinstance(s, Rejected) and s.unread for s in made(source).values())


def test_a_tar_behind_the_end_of_another_is_not_lost(tmp_path: Path, complains: Any) -> None:
    parts = [pack(tmp_path / f"{n}.tar", *pair(f"{n}")).read_bytes() for n in range(2)]
    (tmp_path / "all").mkdir()
    path = tmp_path / "all" / "all.tar"
    path.write_bytes(parts[0] + bytes(1 << 17))  # padding is no content
    assert len(made(listed(path.parent))) == 1
    path.write_bytes(b"".join(parts))
    with complains(path, "--ignore-zeros"):
        listed(path.parent)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_called_tar_is_named_as_such(
    tmp_path: Path, complains: Any, kind: Any
) -> None:
    with tarfile.open(tmp_path / "0.tar", f"w:{kind}") as tar:
        tar.add(pack(tmp_path / "inner" / "1.tar", *pair("a")), "a.jpg")
    with complains(tmp_path / "0.tar", "compressed"):
        listed(tmp_path)


def test_tars_that_are_named_after_splits_are_not_mixed(tmp_path: Path, complains: Any) -> None:
    for name in ("own-train-000.tar", "own-train-001.tar"):
        pack(tmp_path / name, *pair(name[:-4]))
    assert len(made(listed(tmp_path))) == 2
    pack(tmp_path / "own-test-000.tar", *pair("c"))
    with complains(tmp_path, "splits test, train"):
        listed(tmp_path)
