"""Shards are made again where their bytes would change, and not otherwise."""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.prepare.identity import PREPARE_VERSION, source_identity, values_digest, versions
from pipeline.prepare.images import decode_image
from pipeline.prepare.near_duplicates import difference_hashes
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.sources import open_source
from pipeline.prepare.worker import make_shard

GOLDEN = (2, 10240, "ca5169251a6e3238ac29d5846eb4b32f033181e1a1a1fed2f9d61aaba53225ca")
DRAWN = "8ca057e6"
ENCODED = ("JPEG", "RGB", (100, 50), {0: 369, 1: 558})


@dataclass(frozen=True)
class File:
    name: str
    version: str
    label: int | None = None


def double(value: int, by: int = 2) -> int:
    return value * by


PLAIN: list[Any] = [
    None, 1, 2, 1.5, "1", b"1", [], [1], {"a": 1}, {"a": 2}, Path("1"), {1, 2}, {1, 3},
    np.arange(3), np.arange(3.0), np.arange(4), np.zeros((2, 3)), np.zeros((3, 2)), array("q", [7]),
    File("a", "1"), File("a", "2"), File("a", "1", 0), partial(double, by=3), partial(double, by=4),
    double, "\udcff",
]  # fmt: skip


def test_other_values_have_other_digests_and_equal_ones_the_same() -> None:
    digests = [values_digest([value]) for value in PLAIN]
    assert len(set(digests) | {values_digest([Path("2")])}) == len(PLAIN)  # a path is its text
    equal = [File("".join(["a"]), "1"), np.arange(6)[::2][:2] // 2, {2, 1}, np.int64(1)]
    assert [values_digest([v]) for v in equal] == [
        values_digest([v]) for v in (File("a", "1"), np.arange(2), {1, 2}, 1)
    ]
    assert values_digest([1, 2]) != values_digest([12]) != values_digest([[1, 2]])


def test_what_has_no_digest_is_refused_rather_than_ignored() -> None:
    with pytest.raises(TypeError, match="object"):
        values_digest([object()])


def test_the_identity_of_scenes_does_not_depend_on_how_many_there_are(
    make_params: Callable[..., Params],
) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        params = make_params(prepare=changes).prepare
        return source_identity(params.source, open_source(params).make)

    one = identity()
    assert one == identity(scenes={"train": 99}, samples_per_shard=3) != identity(seed=9)


def test_workers_compare_what_encodes_images() -> None:
    found = versions()
    assert found["prepare"] == str(PREPARE_VERSION) and found["pillow"] and found["libjpeg"]


def test_equal_samples_give_the_shard_that_they_always_gave(tmp_path: Path) -> None:
    """Where one of these two fails, shards of users would come out with other bytes: raise
    `PREPARE_VERSION`, and change the values here.
    """
    samples = {
        1: Sample(
            "a", b"jpeg", ["a caf\xe9"], "a.jpg", 3, {"objects": [{"name": "b", "box": [1, 2]}]}
        ),
        2: Rejected("b", "broken"),
        3: Sample("c", b"j" * 600, [], "c.jpg"),
    }
    folder = ShardFolder(tmp_path)
    result = make_shard(folder, "000000.tar", samples, samples.__getitem__, lambda: None)
    assert result.shard is not None
    assert (result.shard.samples, result.shard.bytes, result.shard.sha256) == GOLDEN
    assert result.rejected == [Rejected("b", "broken")]


def test_scenes_are_drawn_as_they_always_were(make_params: Callable[..., Params]) -> None:
    source = open_source(make_params(prepare={"seed": 0}).prepare)
    drawn = [source.make(item) for split in SPLITS for item in [*source.inputs[split]][:3]]
    found = [(s.key, s.captions, s.label, s.extra) for s in drawn if isinstance(s, Sample)]
    assert values_digest([found])[:8] == DRAWN


def test_images_are_encoded_as_they_always_were() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    image = decode_image(buffer.getvalue(), 100)
    with Image.open(io.BytesIO(image.jpeg)) as jpeg:
        tables = {number: sum(table) for number, table in jpeg.quantization.items()}
        assert (jpeg.format, jpeg.mode, jpeg.size, tables) == ENCODED
        assert JpegImagePlugin.get_sampling(jpeg) == 2  # 4:2:0
    assert int(difference_hashes(image.grid)[0]) == 2**64 - 1
