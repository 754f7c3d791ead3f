"""COCO's folders and JSON files: official splits, boxes on the stored image, faults by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shards import read_shard, sample_json
from pipeline.config.params import Params
from pipeline.config.source_params import CocoParams
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.sources.coco import coco

OPTIONS: dict[str, Any] = {
    "train": {"images": "train", "captions": "train.json", "instances": None},
    "test": {"images": "val", "captions": "val.json", "instances": None},
    "val": 0.0,
}
ONE = {
    "images": [{"id": 7, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 7, "caption": "x"}],
}


def write(folder: Path, captions: Any = ONE, size: tuple[int, int] = (40, 20)) -> None:
    """An image `a.jpg` in both parts; the training part has these captions."""
    for part in ("train", "val"):
        (folder / part).mkdir(exist_ok=True)
        Image.new("RGB", size, "red").save(folder / part / "a.jpg")
        (folder / f"{part}.json").write_text(
            json.dumps(captions if part == "train" else ONE), encoding="utf-8"
        )


def instances(folder: Path, *boxes: list[float], **changes: Any) -> dict[str, Any]:
    """Options with these boxes, [left, top, width, height], on an image of 40 x 20."""
    values = {
        "images": [{"id": 7, "width": 40, "height": 20}],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": box, "iscrowd": 0, "segmentation": [[0.0]]}
            for box in boxes
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(values | changes), encoding="utf-8")
    return OPTIONS | {"train": OPTIONS["train"] | {"instances": "boxes.json"}}


def listed(
    folder: Path, options: dict[str, Any] = OPTIONS, max_image_side: int | None = 64
) -> Source:
    return coco(folder, CocoParams(**options), 0, max_image_side)


def made(source: Source, split: str = "train") -> list[Sample | Rejected]:
    return [i if isinstance(i, Rejected) else source.make(i) for i in source.inputs[split]]


@pytest.fixture
def mini(shared_data: Path, make_params: Callable[..., Params]) -> Params:
    """Params for 159 photographs of COCO."""
    section = yaml.safe_load(CocoParams.example) | {"val": 0.2}
    path = str(shared_data / "coco_mini")
    return make_params(prepare={"source": "coco", "path": path, "coco": section})


def test_photographs_of_coco_come_out_whole_with_their_captions_and_boxes(
    mini: Params, tmp_path: Path
) -> None:
    write_image_shards(mini.prepare, tmp_path / "out")
    counts, boxes, captions = {}, 0, 0
    for split in SPLITS:
        manifest = Manifest.read(tmp_path / "out" / split)
        assert manifest.rejected == []
        counts[split] = manifest.samples
        for shard in manifest.shards:
            for _, sample in read_shard(tmp_path / "out" / split / shard.name):
                values = sample_json(sample)
                width, height = Image.open(io.BytesIO(sample["jpg"])).size
                for thing in values["objects"]:
                    left, top, right, bottom = thing["box"]
                    assert 0 <= left <= right <= width and 0 <= top <= bottom <= height
                boxes += len(values["objects"])
                captions += len(values["captions"])
                assert values["label"] is None
    assert counts["test"] == 79 and counts["train"] + counts["val"] == 80
    assert 5 <= counts["val"] <= 30
    assert (boxes, captions) == (1363, 795)


def test_an_image_has_its_captions_and_a_readable_key(tmp_path: Path) -> None:
    write(tmp_path)
    (sample,) = made(listed(tmp_path))
    assert isinstance(sample, Sample)
    assert (sample.key, sample.source, sample.captions) == ("train_a", "train/a.jpg", ["x"])
    assert [s.key for s in made(listed(tmp_path), "test") if isinstance(s, Sample)] == ["val_a"]
    assert listed(tmp_path).classes == []


def test_validation_is_a_share_of_the_training_part_alone(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(200)]
    captions = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [{"image_id": n, "caption": "x"} for n in range(200)],
    }
    write(tmp_path, captions)
    for name in names:
        (tmp_path / "train" / name).touch()
    source = listed(tmp_path, OPTIONS | {"val": 0.25})
    counts = {split: len(source.inputs[split]) for split in SPLITS}
    assert counts["train"] + counts["val"] == 200 and counts["test"] == 1
    assert counts["val"] == pytest.approx(50, abs=20)


def test_boxes_shrink_with_an_image_that_is_reduced(tmp_path: Path) -> None:
    write(tmp_path)
    options = instances(tmp_path, [10, 4, 20, 8], [30, 10, 40, 40])
    (sample,) = made(listed(tmp_path, options, max_image_side=20))
    assert isinstance(sample, Sample)
    assert sample.extra["objects"] == [
        {"name": "dog", "box": [5, 2, 15, 6], "crowd": False},
        {"name": "dog", "box": [15, 5, 20, 10], "crowd": False},
    ]


@pytest.mark.parametrize(
    ("size", "box", "reason"),
    [
        ((20, 40), [0, 0, 9, 9], "40 x 20"),
        ((40, 20), [0, 0, -9, 9], "dog"),
        ((40, 20), [0, float("nan"), 9, 9], "dog"),
    ],
)
def test_boxes_that_do_not_fit_their_image_reject_it(
    tmp_path: Path, size: tuple[int, int], box: list[float], reason: str
) -> None:
    write(tmp_path, size=size)
    (result,) = made(listed(tmp_path, instances(tmp_path, box)))
    assert isinstance(result, Rejected) and reason in result.reason


def test_an_image_of_no_size_among_the_instances_is_rejected(tmp_path: Path) -> None:
    write(tmp_path)
    options = instances(tmp_path, [0, 0, 9, 9], images=[{"id": 7, "width": 0, "height": 0}])
    (result,) = made(listed(tmp_path, options))
    assert isinstance(result, Rejected) and "0 x 0" in result.reason


def test_missing_and_repeated_entries_are_rejected_by_name(tmp_path: Path) -> None:
    images = [(7, "a.jpg"), (8, "gone.jpg"), (9, "a.jpg"), (10, "silent.jpg"), (11, "../x.jpg")]
    captions = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [{"image_id": n, "caption": f"c{n}"} for n in (7, 8, 11, 12)],
    }
    write(tmp_path, captions)
    sample, *rejected = made(listed(tmp_path))
    assert isinstance(sample, Sample) and sample.captions == ["c7"]
    assert [(r.name, r.reason) for r in rejected if isinstance(r, Rejected)] == [
        ("train/gone.jpg", "no such file"),
        ("train/a.jpg", "listed twice in train.json"),
        ("train/silent.jpg", "no caption"),
        ("train/../x.jpg", "no such file"),
        ("train.json, image 12", "captions of an image not listed"),
    ]


def test_a_caption_of_null_is_none_at_all(tmp_path: Path) -> None:
    captions = ONE | {"annotations": [{"image_id": 7, "caption": None}]}
    write(tmp_path, captions)
    assert made(listed(tmp_path)) == [Rejected("train/a.jpg", "no caption")]


def test_an_image_without_an_entry_among_the_instances_is_rejected(tmp_path: Path) -> None:
    write(tmp_path)
    (result,) = made(listed(tmp_path, instances(tmp_path, images=[])))
    assert isinstance(result, Rejected) and "no entry in boxes.json" in result.reason


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"[1]", "no JSON mapping"),
        (b'{"images": []}', "no 'annotations'"),
        (b'{"images": [1], "annotations": []}', "captions"),
        (
            b'{"images": [], "annotations": [{"image_id": 1, "caption": 5}]}',
            "the caption 5",
        ),
        ('{"images": "Löwe"}'.encode("latin-1"), "not UTF-8"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_is_not_coco_is_reported_in_one_line(
    tmp_path: Path, complains: Any, data: bytes, words: str
) -> None:
    write(tmp_path)
    (tmp_path / "train.json").write_bytes(data)
    with complains(tmp_path / "train.json", words):
        listed(tmp_path)


def test_missing_folders_and_files_are_named(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "train", "no such folder", "prepare.coco.train.images"):
        listed(tmp_path)
    write(tmp_path)
    (tmp_path / "val.json").unlink()
    with complains(tmp_path / "val.json", "No such file", "prepare.coco.test.captions"):
        listed(tmp_path)
