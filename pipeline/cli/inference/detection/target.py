"""Where the drawings of `kdeov detect` go: one file, or a folder with a file an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from kdeov.errors import ConfigError
from kdeov.runtime.detections import Detections
from kdeov.runtime.images import read_image
from kdeov.weights.folder import user_path
from pipeline.cli.inference.detection.drawing import Drawing
from pipeline.cli.inference.overlay import require_own
from pipeline.console import printable
from pipeline.inference.inputs import BOXES

SOFTWARE = "kdeov detect"  # marks a PNG of this command, which it may replace
ADVICE = "give another --draw"


class DrawTarget:
    """A PNG for one image, or a folder of `IMAGE.boxes.png`. Files that this command did not draw
    stay as they are.

    Args:
        path: Ends with `.png`, or is a folder, which is made where there is none.

    Raises:
        ConfigError: A file of others has the name.
    """

    def __init__(self, path: Path):
        self._path, self._drawing = user_path(path), Drawing(SOFTWARE)
        self._names: set[str] = set()
        self._single = self._path.suffix.lower() == ".png" and not self._path.is_dir()
        if self._single:
            require_own(self._path, SOFTWARE, ADVICE)
        elif self._path.exists() and not self._path.is_dir():
            raise ConfigError(f"--draw {path}: give a folder, or a file that ends with .png")

    def draw(self, path: Path, found: Detections, labels: Sequence[str]) -> None:
        """Draws the objects of an image.

        Args:
            path: The image.
            found: Its N objects.
            labels: Names of their classes, N.

        Raises:
            ConfigError: A second image for one file, or a file of others has the name.
        """
        if self._single and self._names:
            raise ConfigError(
                f"--draw {self._path} takes one image, and there are more; give a folder"
            )
        target = self._path if self._single else self._path / self._name(path)
        self._names.add(target.name)
        require_own(target, SOFTWARE, ADVICE)
        self._drawing.save(target, read_image(path), found, labels)

    def report(self) -> None:
        """Prints where the drawings are, and what they could not show, on standard error."""
        count = len(self._names)
        what = "drawing" if count == 1 else f"{count} drawings"
        typer.echo(f"{what}: {printable(str(self._path))}", err=True)
        for number, label in sorted(self._drawing.unshown.items()):
            typer.echo(f"#{number} in drawings: {printable(label)} (no font has it)", err=True)

    def _name(self, path: Path) -> str:
        """Name of a drawing; images of one name in several folders are numbered."""
        name, number = f"{path.name}{BOXES}", 1
        while name in self._names:
            number += 1
            name = f"{path.name}.{number}{BOXES}"
        return name
