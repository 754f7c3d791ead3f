"""`kdeov classify`: labels of images, with probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import DataError
from pipeline.cli.inference.output import (
    Errors,
    Format,
    print_csv_header,
    print_ranking,
    progress_on_terminal,
)
from pipeline.inference.labels import label_embeddings
from pipeline.inference.models import open_model
from pipeline.inference.stream import embedded_images


def classify_images(
    paths: Iterable[Path | DataError],
    labels: Sequence[str],
    templates: Sequence[str] | str | None,
    top: int,
    form: Format,
    address: str | None,
    int8: bool,
) -> None:
    """Prints the most probable labels of images.

    Args:
        paths: Images, and errors of `image_paths`.
        labels: K labels.
        templates: Prompts; None takes the model's.
        top: Labels of an image.
        form: Of the output.
        address: Of the model.
        int8: Whether to use the INT8 file.

    Raises:
        KdeovError: There is no model, or it cannot embed the labels.
        Exit: With status 2, if some images could not be read.
    """
    model = open_model(address, "int8" if int8 else "fp32")
    classes = label_embeddings(model, labels, templates)
    errors = Errors("classify")
    if form is Format.CSV:
        print_csv_header()
    with progress_on_terminal("classify", lines=True) as advance:
        for item in embedded_images(model, paths):
            if isinstance(item, DataError):
                errors.add(item)
                continue
            logits = item.embedding @ classes.T * model.logit_scale
            print_ranking(item.path, ranked(logits, labels, top), form)
            advance()
    errors.exit()


def ranked(logits: np.ndarray, labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The most probable labels of logits [K], best first, with their probabilities."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(labels[index], float(probabilities[index])) for index in order]
