"""Webdataset tars from elsewhere, and the source that lists them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from pipeline.config.source_params import ShardsParams
from pipeline.prepare.readers.base import Source
from pipeline.prepare.sources.shards import shards


def encoded(kind: str = "JPEG", colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


JPEG = encoded()


def pack(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def pair(key: str, caption: str = "a dog") -> list[tuple[str, bytes]]:
    """What img2dataset writes of an image."""
    meta = {"caption": caption, "key": key, "status": "success", "url": "http://x/y.jpg"}
    return [
        (f"{key}.jpg", JPEG), (f"{key}.json", json.dumps(meta).encode()),
        (f"{key}.txt", caption.encode()),
    ]  # fmt: skip


def listed(folder: Path, val: float = 0.2, test: float = 0.2) -> Source:
    return shards(folder, ShardsParams(val=val, test=test), 0, 64)


def link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info
