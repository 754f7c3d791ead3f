"""A student's image side as files for phones and other devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdeov.errors import ConfigError, DataError, KdeovError, first_line
from kdeov.export.mobile.converter import MIN_COSINE, Converter
from kdeov.export.mobile.coreml import CoreMl
from kdeov.export.mobile.executorch import ExecuTorch
from kdeov.export.mobile.fixed import FixedImage
from kdeov.export.mobile.litert import LiteRt
from kdeov.export.mobile.openvino import OpenVino
from kdeov.export.mobile.record import (
    NOT_RUN,
    Entry,
    copy_files,
    read_entries,
    remove_files,
    write_record,
)
from kdeov.export.noise import quietly
from kdeov.export.parity import compare
from kdeov.weights.folder import replacing_files, user_path

if TYPE_CHECKING:
    from kdeov.models.model import KDEOVModel

CONVERTERS: dict[str, Converter] = {
    converter.name: converter for converter in (OpenVino(), CoreMl(), LiteRt(), ExecuTorch())
}

Progress = Callable[[str], None]


def export_mobile(
    model: KDEOVModel,
    folder: str | Path,
    targets: Sequence[str],
    on_progress: Progress = lambda _: None,
) -> dict[str, Entry]:
    """Writes a student for devices: one image of the student's size, each file compared with
    PyTorch where it can run here, and `mobile.json`.

    Args:
        model: The student; it stays as it is.
        folder: Files of other targets stay, if they are of the same student.
        targets: Names of `CONVERTERS`.
        on_progress: Called with the name of each file before it is made.

    Returns:
        The entries of `mobile.json`, by target.

    Raises:
        ConfigError: A target is unknown, or its converter is not installed.
        DataError: The network cannot be converted, or a file differs from PyTorch.
        StorageError: The disk is full or the folder cannot be written; it is as before.
    """
    converters = require_converters(targets)
    return write_files(FixedImage.from_model(model), folder, converters, on_progress)


def convert_export(
    export: str | Path,
    folder: str | Path,
    targets: Sequence[str],
    on_progress: Progress = lambda _: None,
) -> dict[str, Entry]:
    """Does `export_mobile` for the student of an export folder, without the packages of students.

    Args:
        export: Holds `card.json`, `image.pt2` and `image.onnx`.
        folder: As in `export_mobile`.
        targets: As in `export_mobile`.
        on_progress: As in `export_mobile`.

    Returns:
        The entries of `mobile.json`, by target.

    Raises:
        KdeovError: As `export_mobile`; or the export is damaged.
    """
    converters = require_converters(targets)
    return write_files(FixedImage.from_export(export), folder, converters, on_progress)


def require_converters(targets: Sequence[str]) -> list[Converter]:
    """The converters of targets, imported.

    Raises:
        ConfigError: There is no target, or an unknown one, or one whose converter is not installed.
    """
    unknown = [name for name in targets if name not in CONVERTERS]
    if unknown or not targets:
        raise ConfigError(
            f"--to {','.join(targets) or 'nothing'}: choose from {', '.join(CONVERTERS)}"
        )
    converters = [CONVERTERS[name] for name in dict.fromkeys(targets)]
    for converter in converters:
        with quietly(converter.name):
            converter.require()
    return converters


def write_files(
    image: FixedImage, folder: str | Path, converters: Sequence[Converter], on_progress: Progress
) -> dict[str, Entry]:
    """Writes the files of converters and `mobile.json`; see `export_mobile`."""
    target, weights = user_path(folder), image.weights
    earlier, recorded = read_entries(target, weights)
    made = {converter.name for converter in converters}
    entries = {name: entry for name, entry in earlier.items() if name not in made}
    with replacing_files(target) as partial:
        for entry in entries.values():
            copy_files(target, partial, entry.files)
        pixels = image.pixels()
        expected = np.concatenate([image.embed(each) for each in pixels])
        for converter in converters:
            on_progress(converter.file)
            entries[converter.name] = _write(converter, image, partial, pixels, expected)
        write_record(partial, weights, image.preprocessing, entries)
    kept = {name for entry in entries.values() for name in entry.files}
    remove_files(target, recorded - kept)  # of another student, or another version of a converter
    return entries


def _write(
    converter: Converter,
    image: FixedImage,
    folder: Path,
    pixels: list[np.ndarray],
    expected: np.ndarray,
) -> Entry:
    """Writes one target and compares it; its entry."""
    try:
        with quietly(converter.file):
            converter.write(image, folder)
            found = converter.run(folder, pixels)
    except (KdeovError, OSError):
        raise
    except Exception as error:  # the converters' errors have no common class
        raise DataError(
            f"{converter.file}: {converter.package} {converter.version} cannot convert this "
            f"network ({first_line(error)}); leave {converter.name} out of --to"
        ) from error
    paths = [folder / name for name in (converter.file, *converter.beside)]
    files = [file for path in paths for file in _files_of(path)]
    return Entry(
        converter={
            "package": converter.package,
            "version": converter.version,
            "torch": torch.__version__,
        },
        input={
            "name": "pixels",
            "shape": list(image.shape),
            "dtype": converter.dtype,
            "layout": "NCHW",
            "color": "RGB",
        },
        output={"name": "embedding", "shape": list(expected[:1].shape), "dtype": "float32"},
        precision=converter.precision,
        parity=NOT_RUN if found is None else _parity(converter, found, expected),
        files=tuple(file.relative_to(folder).as_posix() for file in files),
        bytes=sum(file.stat().st_size for file in files),
    )


def _files_of(path: Path) -> list[Path]:
    """A file, or all files of a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _parity(converter: Converter, found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """The figures of a comparison.

    Raises:
        DataError: The embeddings are too far from PyTorch's.
    """
    parity, least = compare({"_": found}, {"_": expected}), MIN_COSINE[converter.precision]
    if not parity.cosine >= least:
        raise DataError(
            f"{converter.file}: differs from PyTorch, cosine {parity.cosine:.6f} (at least "
            f"{least}); install another version of {converter.package} than {converter.version}"
        )
    return parity.rounded
