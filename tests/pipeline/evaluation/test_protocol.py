"""A protocol names all that a number depends on, so that equal ids mean comparable numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from kdeov.data.transform import ImageTransform
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.evaluation.zero_shot import zero_shot
from tests.helpers.manifests import change_first_shard
from tests.helpers.results import edit_json, read_metrics

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def test_a_protocol_names_all_that_a_number_depends_on() -> None:
    def make(
        task: str = "zero-shot", classes: str = "ab", samples: int = 1000, **changes: Any
    ) -> dict[str, str]:
        transform = replace(ImageTransform(size=64), **changes)
        part = classes_part(list(classes))
        return protocol(task, part, transform=transform, bootstrap_samples=samples)

    one = make()
    pattern = r"zero-shot/2 classes [0-9a-f]{8}/64 px bicubic center/1000 bootstrap samples"
    assert re.fullmatch(pattern, one["protocol"])
    assert re.fullmatch("[0-9a-f]{8}", one["protocol_id"])
    others = [
        make(task="retrieval"),
        make(classes="ba"),
        make(samples=10),
        make(interpolation="bilinear"),
        make(size=32),
    ]
    assert len({p["protocol_id"] for p in (one, *others)}) == 6
    assert make() == one


def test_a_protocol_names_the_test_images_and_what_was_held_out(
    copied: Trained, params: Params
) -> None:
    paths, _ = copied
    dataset = Dataset.read(paths.images)
    before, images = (
        read_metrics(paths, "zero_shot"),
        images_part(dataset, ShardFolder(paths.images)),
    )
    for name in ("zero_shot", "linear_probe"):
        assert f"/{images}/" in read_metrics(paths, name)["protocol"]
    assert f"/held out {len(dataset.held_out)} classes " in before["protocol"]
    edit_json(paths.images / "dataset.json", lambda v: v.update(held_out=dataset.held_out[1:]))
    zero_shot(params, paths)
    assert read_metrics(paths, "zero_shot")["protocol_id"] != before["protocol_id"]


def test_as_many_other_images_are_another_protocol(copied: Trained) -> None:
    paths, _ = copied
    dataset = Dataset.read(paths.images)
    before = images_part(dataset, ShardFolder(paths.images))

    change_first_shard(paths.images / "test")
    after = images_part(dataset, ShardFolder(paths.images))
    assert after != before and after.rpartition(" ")[0] == before.rpartition(" ")[0]
