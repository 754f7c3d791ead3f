"""`kdeov detect`: objects of any classes in images, with boxes."""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from PIL import Image

from kdeov.errors import DataError, one_line
from kdeov.runtime.detections import Detections, Regions, Selection
from pipeline.cli.inference.output import Errors, Format, progress_on_terminal
from pipeline.inference.labels import label_embeddings
from pipeline.inference.models import ExportedModel, open_detector

if TYPE_CHECKING:
    from pipeline.cli.inference.detection.target import DrawTarget

AHEAD = 4  # images a thread that are proposed before they are printed


@dataclass(frozen=True)
class Options:
    """What is done with the images.

    Attributes:
        classes: Names of classes.
        templates: Prompts; None takes the model's.
        selection: Which scores count.
        form: Of the output.
        target: Where drawings go; None draws nothing.
    """

    classes: Sequence[str]
    templates: Sequence[str] | str | None
    selection: Selection
    form: Format
    target: DrawTarget | None


def detect_objects(
    paths: Iterable[Path | DataError], options: Options, address: str | None
) -> None:
    """Prints the objects of images, and draws them.

    Args:
        paths: Images, and errors of `image_paths`.
        options: What is done with them.
        address: Of the model.

    Raises:
        KdeovError: There is no model with a box head, it cannot embed the classes, or a drawing
            would replace a file of others.
        Exit: With status 2, if some images could not be read.
    """
    model = open_detector(address)
    classes = label_embeddings(model, options.classes, options.templates)
    errors = Errors("detect")
    print_header(options.form)
    with progress_on_terminal("detect", lines=True) as advance:
        for path, regions in proposed_images(model, paths, errors):
            found = model.score(regions, classes, options.selection)
            labels = [options.classes[number] for number in found.classes.tolist()]
            if options.target is not None:
                options.target.draw(path, found, labels)
            print_objects({"image": str(path)}, str(path), regions, found, labels, options.form)
            advance()
    if options.target is not None:
        options.target.report()
    errors.exit()


def proposed_images(
    model: ExportedModel, paths: Iterable[Path | DataError], errors: Errors
) -> Iterator[tuple[Path, Regions]]:
    """Images with their proposals in order; several are decoded and proposed at a time.

    Args:
        model: Finds boxes.
        paths: Images, and errors of `image_paths`.
        errors: Counts what cannot be read.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and still read
    source, threads = iter(paths), os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Path, Future[Regions]] | DataError] = deque()
        try:
            while True:
                for item in islice(source, AHEAD * threads - len(waiting)):
                    if isinstance(item, DataError):
                        waiting.append(item)
                    else:
                        waiting.append((item, pool.submit(model.propose, item)))
                if not waiting:
                    return
                first = waiting.popleft()
                if isinstance(first, DataError):
                    errors.add(first)
                    continue
                try:
                    regions = first[1].result()
                except DataError as error:
                    errors.add(error)
                    continue
                yield first[0], regions
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def print_header(form: Format) -> None:
    """Prints the header of `print_objects`' CSV."""
    if form is Format.CSV:
        typer.echo("image,label,score,left,top,right,bottom")


def print_objects(
    place: Mapping[str, Any],
    name: str,
    regions: Regions,
    found: Detections,
    labels: Sequence[str],
    form: Format,
) -> None:
    """Prints the objects of an image, best first.

    Args:
        place: What JSON says of the image.
        name: Its name in text and CSV.
        regions: Its proposals.
        found: Its N objects.
        labels: Names of their classes, N.
        form: Of the output.
    """
    rows = list(zip(labels, found.scores.tolist(), found.boxes.tolist(), strict=True))
    if form is Format.JSON:
        objects = [
            {"label": label, "score": round(score, 6), "box": [round(x, 2) for x in box]}
            for label, score, box in rows
        ]
        typer.echo(json.dumps({**place, "size": list(regions.size), "objects": objects}))
    elif form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for label, score, box in rows:
            writer.writerow([name, label, f"{score:.6f}", *(f"{x:.2f}" for x in box)])
    else:
        shown = [
            f"{one_line(label)} {score:.2f} at {' '.join(f'{x:.0f}' for x in box)}"
            for label, score, box in rows
        ]
        typer.echo(f"{one_line(name)}: {', '.join(shown) or 'none of these classes'}")
