"""Every damage of shards and manifests is refused in one line that names the file."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdeov.data.transform import ImageTransform
from kdeov.data.views import views_from_ints
from kdeov.errors import KdeovError
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import read_shard, write_shard
from pipeline.artifacts.teacher_shards import teacher_members
from pipeline.config.paths import Layout
from pipeline.data.loader import EvaluationStream
from pipeline.data.paired_shards import PairedShards

Members = list[tuple[tarfile.TarInfo, bytes]]


def paired(layout: Layout, split: str = "train") -> PairedShards:
    """The shards of a split, whatever they were made from."""
    values = json.loads((layout.embeddings / split / "manifest.json").read_text(encoding="utf-8"))
    return PairedShards(layout.images / split, layout.embeddings / split, values["identity"])


def rewrite(path: Path, edit: Callable[[Members], Members]) -> None:
    """Writes a tar anew with other members."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for member, data in edit(members):
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))


def member(name: str, data: bytes = b"{}", kind: bytes = tarfile.REGTYPE) -> Members:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return [(info, data)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": cut,
    "missing shard": Path.unlink,
    "no tar": lambda path: path.write_bytes(b"words" * 1000),
    "missing member": lambda path: rewrite(path, lambda m: m[1:]),
    "member at the end missing": lambda path: rewrite(path, lambda m: m[:-1]),
    "missing sample": lambda path: rewrite(path, lambda m: m[:-2]),
    "an extra sample": lambda path: rewrite(path, lambda m: m + member("z.jpg") + member("z.fp16")),
    "a path": lambda path: rewrite(path, lambda m: m + member("../x.jpg")),
    "an absolute path": lambda path: rewrite(path, lambda m: m + member("/tmp/x.jpg")),
    "a folder": lambda path: rewrite(path, lambda m: m + member("x/x.jpg")),
    "a link": lambda path: rewrite(path, lambda m: m + member("x.jpg", kind=tarfile.SYMTYPE)),
    "a hard link": lambda path: rewrite(path, lambda m: m + member("x.jpg", kind=tarfile.LNKTYPE)),
    "a sparse file": lambda path: rewrite(
        path, lambda m: m + member("x.jpg", kind=tarfile.GNUTYPE_SPARSE)
    ),
    "a key twice": lambda path: rewrite(path, lambda m: m + m[:2]),
    "a member twice": lambda path: rewrite(path, lambda m: m[:1] + m),
    "swapped samples": lambda path: rewrite(path, lambda m: m[2:4] + m[:2] + m[4:]),
}


@pytest.mark.parametrize("side", ["images", "embeddings"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_told_in_one_line_that_names_it(
    checkout: Layout, complains: Any, side: str, damage: str
) -> None:
    folder: Path = getattr(checkout, side) / "train"
    DAMAGES[damage](folder / "000001.tar")
    with complains("train/000001.tar"):
        list(paired(checkout))


@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_a_single_flipped_bit_is_found(checkout: Layout, complains: Any, side: str) -> None:
    folder: Path = getattr(checkout, side) / "train"
    made_by = "prepare" if side == "images" else "embed"
    shard = Manifest.read(folder).shards[2]
    ShardFolder(folder).verify(shard)
    data = bytearray((folder / "000002.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "000002.tar").write_bytes(data)
    with complains(folder / "000002.tar", f"run `dvc repro -f {made_by}`"):
        ShardFolder(folder).verify(shard)


def test_a_missing_shard_is_found_before_reading(checkout: Layout, complains: Any) -> None:
    folder = checkout.images / "val"
    (folder / "000001.tar").unlink()
    with complains(folder / "000001.tar", "missing", "run `dvc repro -f prepare`"):
        ShardFolder(folder).verify(Manifest.read(folder).shards[1])


def flip_bit(path: Path, within: bytes) -> None:
    """Changes one bit of a member that begins with these bytes."""
    data = bytearray(path.read_bytes())
    data[data.index(within) + len(within) + 20] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_of_a_image_is_found_when_it_is_read(
    checkout: Layout, complains: Any
) -> None:
    path = checkout.images / "train" / "000001.tar"
    flip_bit(path, b"\xff\xd8\xff")
    with complains(path, "train-0000010"):
        list(paired(checkout))


def test_a_flipped_bit_of_a_vector_is_found_when_it_is_read(
    checkout: Layout, complains: Any
) -> None:
    path = checkout.embeddings / "train" / "000001.tar"
    sample = next(iter(read_shard(path)))[1]
    flip_bit(path, sample["fp16"][:40])
    with complains(path, "train-0000010", "dvc repro -f embed"):
        list(paired(checkout))


def vectors_of(path: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for _, sample in list(read_shard(path)):
        yield sample, np.frombuffer(sample["fp16"], "<f2").reshape(-1, 32).copy()


def rewrite_vectors(layout: Layout, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Other vectors in the first training shard, with checksums that fit."""
    path = layout.embeddings / "train" / "000000.tar"
    views = views_from_ints([[0, 0, 9, 9, 0, 100, 100, 100, 0]] * 3)
    images = (image for _, image in read_shard(layout.images / "train" / "000000.tar"))
    found = zip(images, list(vectors_of(path)), strict=True)
    write_shard(path, [teacher_members(i, edit(vectors), views) for i, (_, vectors) in found])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda v: v[:, :16], "6 of 32 dimensions take 384"),
        (lambda v: v[:-1], "6 of 32 dimensions take 384"),
        (lambda v: v * 0, "has length 0, not 1"),
        (lambda v: v * np.nan, "has length nan, not 1"),
    ],
    ids=["wrong dimension", "a vector too few", "zero vectors", "NaN"],
)
def test_vectors_that_are_no_embeddings_are_refused_when_they_are_read(
    checkout: Layout, complains: Any, edit: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    rewrite_vectors(checkout, edit)
    with complains("train-000000", words, "dvc repro -f embed"):
        list(EvaluationStream(paired(checkout), ImageTransform(size=32), 8))


def test_a_shard_without_samples_is_read_as_what_it_is(checkout: Layout, complains: Any) -> None:
    for side in (checkout.images, checkout.embeddings):
        manifest = Manifest.read(side / "val")
        empty = write_shard(side / "val" / "000009.tar", [])
        replace(manifest, shards=[empty, *manifest.shards]).write(side / "val")
    whole = paired(checkout, "val")
    assert len(list(whole)) == len(whole) == 12
    (checkout.images / "val" / "000009.tar").write_bytes(b"")
    with complains("000009.tar", "damaged shard"):
        list(paired(checkout, "val"))


@settings(max_examples=25, deadline=None)
@given(block=st.integers(1, 400), extra=st.sampled_from([0, 0, 1, 511]))
def test_a_shard_cut_anywhere_is_read_in_full_or_refused(
    built: Layout, block: int, extra: int
) -> None:
    whole = [sample.key for sample in paired(built, "val")]
    data = (built.images / "val" / "000001.tar").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        (layout.images / "val").mkdir(parents=True)
        layout.embeddings.symlink_to(built.embeddings)
        for part in ("manifest.json", "chunks", "000000.tar"):
            (layout.images / "val" / part).symlink_to(built.images / "val" / part)
        (layout.images / "val" / "000001.tar").write_bytes(data[: block * 512 % len(data) + extra])
        try:
            assert [sample.key for sample in paired(layout, "val")] == whole
        except KdeovError as error:
            assert "000001.tar" in str(error)


def edited(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | changes


def recount(manifest: dict[str, Any]) -> dict[str, Any]:
    """One sample more, said twice."""
    manifest["chunks"][0]["samples"] += 1
    return manifest | {"samples": manifest["samples"] + 1}


def without_digest(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "digest"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edited(samples=25), "edited after it was written"),
        (edited(chunks=[]), "edited after it was written"),
        (edited(more=1), "edited after it was written"),
        (recount, "edited after it was written"),
        (edited(format=0), "another format"),
        (without_digest, "damaged ('digest')"),
        (lambda manifest: [manifest], "damaged"),
    ],
)
@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_a_manifest_edited_by_hand_is_refused(
    checkout: Layout,
    complains: Any,
    side: str,
    edit: Callable[[dict[str, Any]], Any],
    words: str,
) -> None:
    identity = paired(checkout).cache.identity
    path: Path = getattr(checkout, side) / "train" / "manifest.json"
    path.write_text(
        json.dumps(edit(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8"
    )
    with complains(path, words, "run `dvc repro"):
        PairedShards(checkout.images / "train", checkout.embeddings / "train", identity)


def rewritten(layout: Layout, **changes: Any) -> None:
    """Both manifests with another first shard, and digests that fit."""
    for side in (layout.images, layout.embeddings):
        manifest = Manifest.read(side / "train")
        first = replace(manifest.shards[0], **changes)
        replace(manifest, shards=[first, *manifest.shards[1:]]).write(side / "train")


def test_shards_of_other_sizes_do_not_belong_together(checkout: Layout, complains: Any) -> None:
    folder = checkout.images / "train"
    manifest = Manifest.read(folder)
    replace(manifest, shards=manifest.shards[:2]).write(folder)
    with complains("dvc repro embed"):
        paired(checkout)


def test_manifests_that_are_wrong_together_are_found_while_reading(
    checkout: Layout, complains: Any
) -> None:
    rewritten(checkout, samples=11)
    with complains("000000.tar", "10 samples, its manifest says 11"):
        list(paired(checkout))


def test_a_shard_that_names_a_command_runs_nothing(checkout: Layout, complains: Any) -> None:
    command = f"pipe:touch {checkout.root / 'ran'}"
    rewritten(checkout, name=command)
    with complains(command):
        list(paired(checkout))
    assert not (checkout.root / "ran").exists()
