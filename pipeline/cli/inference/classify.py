"""`kdeov classify`: labels of images, with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kdeov.errors import DataError
from pipeline.cli.inference.inputs import image_paths
from pipeline.cli.inference.labels import given_labels, label_embeddings
from pipeline.cli.inference.models import open_model
from pipeline.cli.inference.output import (
    Errors,
    Format,
    print_csv_header,
    print_ranking,
    progress_on_terminal,
)
from pipeline.cli.inference.stream import embedded_images

ImagesArgument = Annotated[
    list[str], typer.Argument(help="Files, folders, globs; - for a list on standard input.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="An export folder, a student folder or a model of MLflow; out/export by default.",
    ),
]
Int8Option = Annotated[bool, typer.Option("--int8", help="Use the INT8 file of the export.")]


def classify(
    images: ImagesArgument,
    labels: Annotated[
        str | None, typer.Option(help='Labels, separated by commas: "cat, dog".')
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with a label a line.")
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            help="A prompt with {} for the label, or the name of a set; may be repeated.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels shown for an image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table.")] = False,
    model: ModelOption = None,
    int8: Int8Option = False,
) -> None:
    """Classify images by any labels.

    The exit status is 2 if some images could not be read; the others are answered.
    """
    form = Format.of(as_json, as_csv)
    names = given_labels(labels, labels_file)
    paths = image_paths(images)
    opened = open_model(model, "int8" if int8 else "fp32")
    classes = label_embeddings(opened, names, chosen_templates(templates) or opened.templates)
    errors = Errors("classify")
    if form is Format.CSV:
        print_csv_header()
    with progress_on_terminal("classify", lines=True) as advance:
        for item in embedded_images(opened, paths):
            if isinstance(item, DataError):
                errors.add(item)
                continue
            ranking = ranked(item.embedding @ classes.T * opened.logit_scale, names, top)
            print_ranking(item.path, ranking, form)
            advance()
    errors.exit()


def chosen_templates(templates: Sequence[str] | None) -> Sequence[str] | str | None:
    """Prompts of the option `--templates`: the name of a set, or prompts with `{}`."""
    if not templates:
        return None
    return templates[0] if len(templates) == 1 and "{}" not in templates[0] else templates


def ranked(logits: np.ndarray, names: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The most probable labels of logits [K], best first."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(names[index], float(probabilities[index])) for index in order]
