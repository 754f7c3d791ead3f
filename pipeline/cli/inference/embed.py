"""`kdeov embed`: embeddings of images in one file; a stopped run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdeov.errors import ConfigError, DataError
from pipeline.cli.inference.classify import ImagesArgument, Int8Option, ModelOption
from pipeline.cli.inference.inputs import image_paths
from pipeline.cli.inference.models import open_model
from pipeline.cli.inference.output import Errors, progress_on_terminal
from pipeline.cli.inference.stream import embedded_images
from pipeline.cli.inference.table import EmbeddingTable


def embed(
    images: ImagesArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .npy, with a list of images beside it, or .parquet.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that this command did not write.")
    ] = False,
    model: ModelOption = None,
    int8: Int8Option = False,
) -> None:
    """Embed images into one file, a row an image.

    A run that was stopped goes on, and a second one embeds new and changed images alone. The exit
    status is 2 if some images could not be read; the others have rows.
    """
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"--output {output}: give a name that ends with .npy or .parquet")
    errors = Errors("embed")
    paths: list[Path] = []
    for item in image_paths(images):
        if isinstance(item, DataError):
            errors.add(item)
        else:
            paths.append(item)
    opened = open_model(model, "int8" if int8 else "fp32")
    with EmbeddingTable(output, opened.image_digest, opened.embed_dim, force) as table:
        left = [path for path in paths if not table.has(path)]
        known = len(paths) - len(left)
        with progress_on_terminal("embed", len(left)) as advance:
            for result in embedded_images(opened, left):
                if isinstance(result, DataError):
                    errors.add(result)
                else:
                    table.add(result)
                advance()
        count = table.finish(paths)
    if not count:
        raise DataError(f"no image could be read, so {output} is not written")
    typer.echo(
        f"{output}: {count} embeddings of {opened.embed_dim} numbers"
        f"{f', {known} of them as before' if known else ''}, made with {opened.provider}"
    )
    errors.exit()
