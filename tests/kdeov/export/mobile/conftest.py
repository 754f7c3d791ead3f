"""Small students, and converters that need no package but PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeov.export.files import export_model
from kdeov.export.mobile.converter import Converter
from kdeov.export.mobile.files import write_files
from kdeov.export.mobile.fixed import FixedImage
from kdeov.export.mobile.record import Entry
from kdeov.models.model import KDEOVModel
from tests.helpers.exported import small_model

BACKBONE = "timm:resnet10t"


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Loggers are afterwards as they were: the command sets up its own."""
    root, own = logging.getLogger(), logging.getLogger("kdeov")
    handlers, level = list(root.handlers), own.level
    yield
    root.handlers = handlers
    own.setLevel(level)


class Program(Converter):
    """Programs of `torch.export`."""

    name = "program"
    file = "image.pt2"
    package = "torch"
    modules = ("torch",)
    install = "pip install torch"

    def write(self, image: FixedImage, folder: Path) -> None:
        torch.export.save(image.program(), folder / self.file)

    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray | None:
        run = torch.export.load(folder / self.file).module()
        with torch.no_grad():
            return torch.cat([run(torch.from_numpy(image)) for image in pixels]).numpy()


class Package(Program):
    """The same in a folder, of a format that does not run here."""

    name = "package"
    file = "image.package"

    def write(self, image: FixedImage, folder: Path) -> None:
        inner = folder / self.file / "data" / "weights"
        inner.mkdir(parents=True)
        torch.export.save(image.program(), inner / "image.pt2")
        (folder / self.file / "manifest.json").write_text("{}", encoding="utf-8")

    def run(self, folder: Path, pixels: list[np.ndarray]) -> None:
        return None


class Negative(Program):
    """Programs whose files take the negative of an image."""

    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray | None:
        return super().run(folder, [255 - image for image in pixels])


@pytest.fixture(scope="session")
def student() -> KDEOVModel:
    return small_model("table", BACKBONE)


@pytest.fixture(scope="session")
def fixed(student) -> FixedImage:
    return FixedImage.from_model(student)


@pytest.fixture
def write(fixed, tmp_path) -> Callable[..., dict[str, Entry]]:
    """Writes the files of converters into `tmp_path / "out"`."""

    def run(*converters: Converter, image: FixedImage = fixed) -> dict[str, Entry]:
        return write_files(image, tmp_path / "out", converters, lambda _: None)

    return run


@pytest.fixture(scope="session")
def export(student, tmp_path_factory) -> Path:
    """An export of `student`; read it, change a copy."""
    folder = tmp_path_factory.mktemp("exported") / "export"
    export_model(student, folder)
    return folder
