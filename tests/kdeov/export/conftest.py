"""Small exports that these tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import Card, read_card
from tests.helpers.exported import write_export


class Exported(NamedTuple):
    """The folder of an export, its card, and the model that it was made from."""

    folder: Path
    card: Card
    model: KDEOVModel

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def _exported(folder: Path, **options: Any) -> Exported:
    model = write_export(folder, **options)
    return Exported(folder, read_card(folder), model)


@pytest.fixture(scope="session")
def yolo(tmp_path_factory) -> Exported:
    """A YOLO student with a text tower and a box head."""
    return _exported(tmp_path_factory.mktemp("yolo") / "export", boxes=True)


@pytest.fixture(scope="session")
def timm(tmp_path_factory) -> Exported:
    """A timm student with a table of texts."""
    folder = tmp_path_factory.mktemp("timm") / "export"
    return _exported(folder, text="table", backbone="timm:resnet10t")
