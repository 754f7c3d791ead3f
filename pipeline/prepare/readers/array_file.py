"""Arrays of an `.npz` file or a folder of `.npy` files, read whole or row by row."""

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

from kdeov.errors import DataError


class ArrayFile:
    """Named arrays. Pickled objects are refused, so reading runs no code.

    Args:
        path: An `.npz` file, or a folder of `.npy` files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, name: str) -> np.ndarray:
        """Reads a whole array.

        Raises:
            DataError: It is missing, damaged or holds objects.
        """
        with self._reading(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array of uint8.

        Raises:
            DataError: It is missing, damaged, of another type, or not stored row by row.
        """
        with self._reading(name) as file:
            return self._header(file, name)

    def rows(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Reads rows of an array of uint8, one at a time.

        Args:
            name: Name of the array.
            start: First row.
            stop: Row before which reading ends.

        Raises:
            DataError: See `shape`; or the array is truncated.
        """
        with self._reading(name) as file:
            count, *shape = self._header(file, name)
            size = math.prod(shape)
            file.seek(start * size, os.SEEK_CUR)
            for number in range(start, stop):
                data = file.read(size)
                if len(data) != size:
                    raise DataError(
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
            order = ", stored column by column" if by_column else ""
            scaled = "scaled to 0 to 255, " if dtype.kind == "f" else ""
            raise DataError(
                f"{self.path}: {name} is {dtype} {list(shape)}{order}; save it as uint8, {scaled}"
                "with np.ascontiguousarray"
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
                        raise DataError(
                            f"{self.path}: no array {name!r}, its arrays are {known or 'none'}; "
                            "correct the names in prepare.arrays"
                        )
                    file = stack.enter_context(archive.open(f"{name}.npy"))
                yield file
            except OSError as error:
                archives = ", ".join(sorted(path.name for path in self.path.glob("*.npz")))
                inside = f" (name the archive, {archives}, itself)" if archives else ""
                raise DataError(
                    f"{error.filename or self.path}: {error.strerror or error}; check prepare.path"
                    f"{inside} and the names in prepare.arrays"
                ) from error
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                raise DataError(
                    f"{self.path}: {name} cannot be read ({' '.join(str(error).split())}); save "
                    "plain arrays with np.savez"
                ) from error
