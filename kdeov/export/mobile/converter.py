"""The interface of converters."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np

from kdeov.errors import ConfigError, first_line
from kdeov.export.mobile.fixed import FixedImage

FLOAT16, FLOAT32 = "float16", "float32"
MIN_COSINE = {FLOAT16: 0.999, FLOAT32: 0.9999}


class Converter(ABC):
    """A format of files for devices, and the package that makes them.

    Attributes:
        name: As `--to` takes it.
        file: The file or folder that is written.
        beside: Files that belong to it.
        package: On the package index.
        modules: Of that package and of those that it needs; imported before a conversion.
        install: Command that installs them.
        precision: Of the weights in the file.
        dtype: Of the input `pixels` [1, 3, S, S]: `uint8`, or `image` where a system's image type
            is taken.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    precision: ClassVar[str] = FLOAT32
    dtype: ClassVar[str] = "uint8"

    def require(self) -> None:
        """Imports the converter.

        Raises:
            ConfigError: It is not installed, or does not work with the packages that are.
        """
        for module in self.modules:
            try:
                importlib.import_module(module)
            except (ImportError, OSError, AttributeError) as error:
                raise ConfigError(
                    f"--to {self.name} needs the package {self.package} "
                    f"({first_line(error)}): {self.install} installs it"
                ) from error

    @property
    def version(self) -> str:
        """Of the package."""
        return metadata.version(self.package)

    @abstractmethod
    def write(self, image: FixedImage, folder: Path) -> None:
        """Writes `file`, and those beside it, into a folder.

        Raises:
            Exception: Of any kind; the converter cannot convert the network.
        """

    @abstractmethod
    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray | None:
        """Runs the file on this machine.

        Args:
            folder: Holds `file`.
            pixels: N images, uint8 [1, 3, S, S] each.

        Returns:
            Embeddings [N, D]; None where files of this format cannot run here.
        """
