"""`kdeov embed`: embeddings of images in one file; a stopped run goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from kdeov.errors import ConfigError, DataError
from kdeov.weights.folder import user_path
from pipeline.cli.inference.output import Errors, progress_on_terminal
from pipeline.cli.inference.table import EmbeddingTable
from pipeline.inference.models import open_model
from pipeline.inference.stream import embedded_images


def embed_images(
    found: Iterable[Path | DataError], output: Path, force: bool, address: str | None, int8: bool
) -> None:
    """Writes a table of embeddings, and prints how many.

    Args:
        found: Images, and errors of `image_paths`.
        output: The file.
        force: Whether to replace a file of other origin.
        address: Of the model.
        int8: Whether to use the INT8 file.

    Raises:
        KdeovError: There is no model, no readable image, or the file cannot be written.
        Exit: With status 2, if some images could not be read.
    """
    output = Path(os.path.realpath(user_path(output)))  # a link stays, and leads to the table
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"--output {output}: give a name that ends with .npy or .parquet")
    errors = Errors("embed")
    paths: list[Path] = []
    for item in found:
        if isinstance(item, DataError):
            errors.add(item)
        else:
            paths.append(item)
    model = open_model(address, "int8" if int8 else "fp32")
    with EmbeddingTable(output, model.image_digest, model.embed_dim, force) as table:
        left = [path for path in paths if not table.has(path)]
        known = len(paths) - len(left)
        with progress_on_terminal("embed", len(left)) as advance:
            for result in embedded_images(model, left):
                if isinstance(result, DataError):
                    errors.add(result)
                else:
                    table.add(result)
                advance()
        count, left_out = table.finish(paths)
    if not count:
        raise DataError(f"no image could be read, so {output} is not written")
    typer.echo(
        f"{output}: {count} embeddings of {model.embed_dim} numbers"
        f"{f', {known} of them as before' if known else ''}, made with {model.provider}"
    )
    if left_out:
        typer.echo(f"{left_out} rows of before are left out: their images were not named", err=True)
    if table.other_model:
        typer.echo("the rows of before were made with another model, and are made again", err=True)
    errors.exit()
