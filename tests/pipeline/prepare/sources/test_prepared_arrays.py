"""Arrays go through `prepare`, with captions and labels or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shards import read_shard, sample_json
from pipeline.config.params import Params
from pipeline.prepare.prepare import write_image_shards
from tests.helpers.arrays import EXAMPLE, part, random_pixels, saved
from tests.helpers.manifests import manifests


def test_arrays_go_through_prepare_to_the_same_bytes(
    tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    pixels = {"train_x": random_pixels(60, 8, 8, 3), "train_y": np.arange(60) % 3}
    section = EXAMPLE | {"val": 0.3}
    path = str(saved(tmp_path, **pixels))
    params = make_params(prepare={"source": "arrays", "path": path, "arrays": section})
    for name in ("1", "2"):
        write_image_shards(params.prepare, tmp_path / name)
    assert manifests(tmp_path / "1") == manifests(tmp_path / "2")
    assert sum(Dataset.read(tmp_path / "1").samples.values()) == 64


def test_a_shard_states_that_there_is_no_caption_and_no_label(
    tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    splits = {
        "train": part("train_x", None, [0, 6]), "val": part("train_x", None, [6, 8]),
        "test": part("train_x", "train_y", [8, 10]),
    }  # fmt: skip
    section = EXAMPLE | {"splits": splits, "templates": None}
    path = str(saved(tmp_path))
    params = make_params(prepare={"source": "arrays", "path": path, "arrays": section})
    write_image_shards(params.prepare, tmp_path / "out")
    ((_, sample),) = read_shard(tmp_path / "out" / "val" / "000000.tar", stop=1)
    assert sample_json(sample) == {"captions": [], "label": None, "source": "train_x/6"}
    ((_, sample),) = read_shard(tmp_path / "out" / "test" / "000000.tar", stop=1)
    assert sample_json(sample) == {"captions": [], "label": 0, "source": "train_x/8"}
    dataset = Dataset.read(tmp_path / "out")
    assert (dataset.classes[:1], dataset.held_out) == (["cat"], [])
