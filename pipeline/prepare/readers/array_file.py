"""Arrays in an `.npz` file or a folder of `.npy` files: small ones whole, images by row."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdeov.errors import KdeovError


class ArrayFile:
    """Named arrays; nothing in them is run, as pickled objects are refused.

    Args:
        path: An `.npz` file, or a folder of `.npy` files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, name: str) -> np.ndarray:
        """All of an array.

        Raises:
            KdeovError: It is missing, damaged or holds objects.
        """
        with self._reading(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array of uint8.

        Raises:
            KdeovError: It is missing, damaged, of another type, or not stored row by row.
        """
        with self._reading(name) as file:
            return self._header(file, name)

    def rows(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Some rows of an array of uint8, one after the other.

        Args:
            name: Of the array.
            start: The first.
            stop: The one behind the last.

        Raises:
            KdeovError: See `shape`; or the array is truncated.
        """
        with self._reading(name) as file:
            count, *shape = self._header(file, name)
            size = math.prod(shape)
            file.seek(start * size, os.SEEK_CUR)
            for number in range(start, stop):
                data = file.read(size)
                if len(data) != size:
                    raise KdeovError(
                        f"{self.path}: {name} is truncated at row {number} of {count}; get it again"
                    )
                yield np.frombuffer(data, np.uint8).reshape(shape)

    def _header(self, file: IO[bytes], name: str) -> tuple[int, ...]:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, by_column, dtype = read(file)
        if dtype != np.uint8 or by_column or not shape:
            order = ", stored by column" if by_column else ""
            raise KdeovError(
                f"{self.path}: {name} is {dtype} {list(shape)}{order}; save "
                f"np.ascontiguousarray of it as uint8"
            )
        return shape

    @contextmanager
    def _reading(self, name: str) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            try:
                if self.path.is_dir():
                    file: Any = stack.enter_context(open(self.path / f"{name}.npy", "rb"))
                else:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    if f"{name}.npy" not in archive.namelist():
                        known = ", ".join(n.removesuffix(".npy") for n in archive.namelist())
                        raise KdeovError(
                            f"{self.path}: no array {name!r}, its arrays are {known or 'none'}; "
                            "name them in prepare.arrays"
                        )
                    file = stack.enter_context(archive.open(f"{name}.npy"))
                yield file
            except OSError as error:
                archives = ", ".join(sorted(path.name for path in self.path.glob("*.npz")))
                inside = f" (name the archive, {archives}, itself)" if archives else ""
                raise KdeovError(
                    f"{error.filename or self.path}: {error.strerror or error}; check prepare.path"
                    f"{inside} and the names in prepare.arrays"
                ) from error
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                if isinstance(error, KdeovError):
                    raise
                raise KdeovError(
                    f"{self.path}: {name} cannot be read ({' '.join(str(error).split())}); save "
                    "plain arrays with np.savez"
                ) from error
