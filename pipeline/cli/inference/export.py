"""`kdeov export`: a saved student as files that run without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdeov.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from kdeov.data.transform import ImageTransform

MIN_CALIBRATION = 8  # images; the ranges of fewer say little
MAX_CALIBRATION = 512  # images; more change the ranges by little


def export_student(
    student: Path, output: Path, named: list[str], to: str, boxes: Path | None = None
) -> None:
    """Exports a saved student.

    Args:
        student: Its folder.
        output: The folder to write.
        named: Files, folders and globs of images that calibrate INT8, and with which searches
            compare; without any, there is neither.
        to: Targets of `kdeov.export.mobile`, separated by commas, or empty.
        boxes: Folder of the student's box head; None exports none.

    Raises:
        KdeovError: The student, its box head or an image cannot be read, or a file differs from
            PyTorch.
    """
    from kdeov.detection.detector import Detector
    from kdeov.export.files import ExportImages, ExportInfo, export_model
    from kdeov.export.mobile.files import export_mobile, require_converters
    from kdeov.models.model import KDEOVModel
    from pipeline.artifacts.run import RUN, RunRecord
    from pipeline.console import setup_logging

    setup_logging()
    targets = [name.strip() for name in to.split(",") if name.strip()]
    if targets:
        require_converters(targets)  # before any work
    model = KDEOVModel.load(student, "cpu")
    detector = Detector.load(boxes, model.student) if boxes is not None else None
    about = ExportInfo()
    if (student / RUN).is_file():
        record = RunRecord.read(student)
        about = ExportInfo(name=record.name, fingerprint=record.fingerprint)
    images = None
    if named:
        pixels = _calibration(named, model.transform)
        images = ExportImages(pixels, background=[pixels])
    export_model(model, output, images, about=about, detector=detector, on_progress=_report)
    if targets:
        export_mobile(model, output, targets, on_progress=_report)
    example = 'classify IMAGE --labels "..."' if boxes is None else 'detect IMAGE --classes "..."'
    typer.echo(f"{output} is written; try `kdeov {example} --model {output}`")


def _report(file: str) -> None:
    typer.echo(f"{file} ...", err=True)


def _calibration(images: list[str], transform: ImageTransform) -> np.ndarray:
    """uint8 [N, 3, S, S] of the first images.

    Raises:
        DataError: An argument names no image, one cannot be read, or there are too few.
    """
    import numpy as np

    from kdeov.runtime.images import read_image
    from pipeline.inference.inputs import image_paths

    pixels: list[np.ndarray] = []
    for found in image_paths(images):
        if isinstance(found, DataError):
            raise found
        pixels.append(transform.pixels(read_image(found)).numpy())
        if len(pixels) == MAX_CALIBRATION:
            break
    if len(pixels) < MIN_CALIBRATION:
        raise DataError(
            f"{len(pixels)} images calibrate badly; name at least {MIN_CALIBRATION} with --images"
        )
    return np.stack(pixels)
