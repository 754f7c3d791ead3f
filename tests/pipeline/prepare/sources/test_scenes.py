"""The generated data set: the same images everywhere, and nothing held out in training."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.prepare.readers.base import Sample
from pipeline.prepare.sources.scenes import Scenes

WORLD = Path(__file__).resolve().parents[4] / "pipeline" / "prepare" / "sources" / "scenes.yaml"
COUNTS = {"train": 130, "val": 64, "test": 64}


def scenes(seed: int = 0) -> Scenes:
    return Scenes(WORLD, seed, COUNTS)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Sample]]:
    source = scenes()
    return {split: [source.make(item) for item in source.inputs(split)] for split in COUNTS}


def things(sample: Sample) -> list[str]:
    return [thing["name"] for thing in sample.extra["objects"]]


def test_an_image_is_the_same_in_any_order_and_in_another_process(
    drawn: dict[str, list[Sample]], run_python: Any
) -> None:
    items = [("train", 7), ("test", 3), ("val", 5), ("train", 7)]
    script = f"""
import hashlib
from pathlib import Path
from pipeline.prepare.sources.scenes import Scenes
source = Scenes(Path({str(WORLD)!r}), 0, {COUNTS})
for item in {items}:
    sample = source.make(item)
    print(hashlib.sha256(sample.jpeg + repr(sample).encode()).hexdigest())
"""
    here = [drawn[split][index] for split, index in items]
    expected = [hashlib.sha256(s.jpeg + repr(s).encode()).hexdigest() for s in here]
    assert run_python("-c", script).stdout.split() == expected


def test_no_two_images_are_the_same(drawn: dict[str, list[Sample]]) -> None:
    samples = [sample for split in drawn.values() for sample in split]
    assert len({sample.jpeg for sample in samples}) == len(samples)
    assert len({sample.key for sample in samples}) == len(samples)
    other = scenes(seed=1)
    assert other.make(("train", 0)).jpeg != drawn["train"][0].jpeg


def test_held_out_pairs_never_occur_in_training_and_do_in_the_other_splits(
    drawn: dict[str, list[Sample]],
) -> None:
    held_out = set(scenes().held_out)
    assert len(held_out) == 8
    for sample in drawn["train"]:
        assert not held_out & set(things(sample))
        assert not any(name in caption for name in held_out for caption in sample.captions)
    for split in ("val", "test"):
        assert held_out <= {things(sample)[0] for sample in drawn[split]}


def test_every_class_is_tested_equally_often(drawn: dict[str, list[Sample]]) -> None:
    assert sorted(sample.label or 0 for sample in drawn["test"]) == list(range(64))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), split=st.sampled_from(sorted(COUNTS)), index=st.integers(0, 10**6)
)
def test_what_is_said_of_an_image_is_true_of_it(seed: int, split: str, index: int) -> None:
    source = scenes(seed)
    sample = source.make((split, index))
    image = Image.open(io.BytesIO(sample.jpeg))
    assert image.size == (96, 96) and image.mode == "RGB"
    assert sample.label is not None and source.classes[sample.label] == things(sample)[0]
    boxes = [thing["box"] for thing in sample.extra["objects"]]
    assert 1 <= len(boxes) <= 3
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 96 and 0 <= top < bottom <= 96
    for box in boxes[1:]:
        assert (box[2] - box[0]) < (boxes[0][2] - boxes[0][0])
    assert len(sample.captions) == 3
    colour = things(sample)[0].split()[0]
    assert all(colour in caption for caption in sample.captions)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("colours: [", "no description of scenes"),
        ("", "no description of scenes"),
        ("size: 96", "colours"),
    ],
)
def test_a_world_that_cannot_be_read_is_reported_in_one_line(
    tmp_path: Path, complains: Any, text: str | None, reason: str
) -> None:
    path = tmp_path / "scenes.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with complains(path, reason):
        Scenes(path, 0, COUNTS)


def test_an_unknown_shape_is_reported_before_drawing(tmp_path: Path, complains: Any) -> None:
    world = yaml.safe_load(WORLD.read_text(encoding="utf-8"))
    world["shapes"]["spiral"] = ["spiral"]
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(world), encoding="utf-8")
    with complains(tmp_path / "scenes.yaml", "spiral"):
        Scenes(tmp_path / "scenes.yaml", 0, COUNTS)


def test_the_captions_of_a_seed_keep_their_words() -> None:
    """Their templates are data: another word would change every image shard."""
    texts = [c for n in range(64) for c in scenes(0).make(("train", n)).captions]
    assert sum("picture" in text for text in texts) == 59
    assert (
        hashlib.sha256("\n".join(texts).encode()).hexdigest()
        == "602b7f5e987a58eef9121e51c3eeca6f916f41dc45913da40236efc96866ccde"
    )
