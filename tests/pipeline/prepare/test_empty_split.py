"""The cure for an empty split works: a share is named only where a larger one fills the split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts.dataset import SPLITS
from pipeline.config.params import Params
from pipeline.prepare.prepare import write_image_shards

MakeParams = Callable[..., Params]


def folder_of(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return root


def class_folders(make_params: MakeParams, root: Path, **shares: float) -> Params:
    return make_params(
        prepare={
            "source": "image_folder",
            "path": str(root),
            "image_folder": {"templates": "plain", "class_names": None, "val": 0.1, "test": 0.1}
            | shares,
        }
    )


@pytest.mark.parametrize(
    ("shares", "split", "cure"),
    [
        ({"val": 0.0}, "val", "larger share in prepare.image_folder.val"),
        ({"test": 0.0}, "test", "larger share in prepare.image_folder.test"),
        (
            {"val": 0.5, "test": 0.5},
            "train",
            "lower prepare.image_folder.val and prepare.image_folder.test",
        ),
    ],
)
def test_a_share_that_fills_the_split_is_named(
    tmp_path: Path,
    make_params: MakeParams,
    complains: Any,
    shares: dict[str, float],
    split: str,
    cure: str,
) -> None:
    root = folder_of(tmp_path / "own", *(f"{c}/{n}" for c in ("cat", "dog") for n in range(20)))
    with complains(root, f"the {split} split is empty", cure):
        write_image_shards(class_folders(make_params, root, **shares).prepare, tmp_path / "out")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_with_a_folder_of_its_own_is_filled_by_images_and_not_by_a_share(
    tmp_path: Path, make_params: MakeParams, complains: Any, split: str
) -> None:
    names = [f"{s}/cat/{n}" for s in SPLITS if s != split for n in range(30)]
    root = folder_of(tmp_path / "own", *names)
    (root / split).mkdir()
    with complains(f"the {split} split is empty", "no share fills it", "add images") as _:
        write_image_shards(class_folders(make_params, root).prepare, tmp_path / "out")


def test_too_few_images_to_share_out_are_counted(
    tmp_path: Path, make_params: MakeParams, complains: Any
) -> None:
    root = folder_of(tmp_path / "own", "cat/0", "dog/1")
    with complains("split is empty", "2 images are too few", "add images"):
        write_image_shards(class_folders(make_params, root).prepare, tmp_path / "out")


def test_splits_of_a_file_may_be_replaced_by_shares(
    tmp_path: Path, make_params: MakeParams, complains: Any
) -> None:
    root = folder_of(tmp_path / "own", *(f"Images/{n}" for n in range(20)))
    images = [
        {"filename": f"{n}.png", "split": "train" if n else "test", "sentences": [{"raw": "a"}]}
        for n in range(20)
    ]
    (root / "dataset.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    section = {"images": "Images", "captions": "dataset.json", "shares": None}
    params = make_params(prepare={"source": "flickr", "path": str(root), "flickr": section})
    with complains("the val split is empty", "prepare.flickr.shares.val"):
        write_image_shards(params.prepare, tmp_path / "out")
