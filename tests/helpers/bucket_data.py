"""Small data sets that lie in a folder and, alike, in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.storage.storage import open_storage
from tests.helpers.parquets import labelled
from tests.helpers.tars import pack, pair


def put_folder(folder: Path, address: str) -> None:
    """Uploads all files of a folder."""
    storage = open_storage(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.write(path.relative_to(folder).as_posix(), path.read_bytes())


def make_image_folder(folder: Path) -> dict[str, Any]:
    """Class folders of a few images; returns the section of the source."""
    for number in range(9):
        for name in ("cat", "polar bear"):
            path = folder / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * number, len(name), 0)).save(path)
    (folder / "train" / "cat" / "bad.png").write_bytes(b"no image")
    (folder / "train" / ".DS_Store").write_bytes(b"x")
    (folder / "stray.jpg").write_bytes(b"x")
    return {"templates": "plain", "class_names": None, "val": 0.3, "test": 0.3}


def make_shards(folder: Path) -> dict[str, Any]:
    """Tars as img2dataset writes them; returns the section of the source."""
    for tar in range(3):
        keys = [f"{tar:05d}{number:04d}" for number in range(8)]
        pack(folder / f"{tar:05d}.tar", *[file for key in keys for file in pair(key, f"a {key}")])
        (folder / f"{tar:05d}_stats.json").write_text("{}", encoding="utf-8")
    return {"val": 0.3, "test": 0.3}


def make_parquet(folder: Path) -> dict[str, Any]:
    """Files as `datasets` exports them; returns the section of the source."""
    names = ["cat", "polar bear"]
    for part in range(2):
        path = folder / "data" / f"train-{part:05d}-of-00002.parquet"
        labelled(path, [0, 1] * 4, names)
    labelled(folder / "data" / "test-00000-of-00001.parquet", [1, 0, 5], names)
    return {
        "image_column": "image", "caption_column": None, "label_column": "label",
        "templates": "plain", "val": 0.3, "test": 0.0,
    }  # fmt: skip


MAKERS = {"image_folder": make_image_folder, "shards": make_shards, "parquet": make_parquet}
