"""`kdeov export`: a saved student as files that run without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    student: Annotated[Path, typer.Argument(help="A folder that KDEOVModel.save wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Files, folders or globs of images like those of the task, which calibrate the "
            "INT8 file; may be repeated. Without any, no INT8 file is made."
        ),
    ] = None,
) -> None:
    """Export a saved student: ONNX, INT8, torch.export, its text side and a card.

    In a checkout, `dvc repro export` does it for the student of the run.
    """
    from pipeline.console import setup_logging
    from pipeline.export.folder import export_folder

    setup_logging()
    export_folder(student, output, images or [])
    typer.echo(f"{output}: run `kdeov classify IMAGE --labels ... --model {output}`")
