"""Stage `report`: a self-contained HTML page, and the MLflow run."""

from __future__ import annotations

import logging

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import load_student, read_arrays
from pipeline.report.advice import warnings
from pipeline.report.classes.confusion import MAX_NAMED, block_png
from pipeline.report.classes.predictions import Predictions
from pipeline.report.facts.data import DataFacts
from pipeline.report.facts.provenance import Provenance
from pipeline.report.figures import confusion_matrix, training_curves
from pipeline.report.objects.drawing import MarkedImage, choose, marked_images, threshold_of
from pipeline.report.page.classes_part import classes_part
from pipeline.report.page.gallery import Gallery, Query, examples, queries
from pipeline.report.page.render import Parts, render
from pipeline.report.publish import publish_or_warn
from pipeline.report.results import Results
from pipeline.storage.files import write_text, writing, writing_folder
from pipeline.tracking.target import TrackingTarget

logger = logging.getLogger(__name__)


def report(params: Params, paths: Layout) -> None:
    """Writes `out/report/index.html` and its figures, then publishes the run to MLflow, and logs
    where to look.

    If MLflow cannot be written, the log has a warning and `kdeov publish` does it later.

    Raises:
        KdeovError: A result is missing, or `tracking.uri` is wrong.
    """
    TrackingTarget.of(params.tracking, paths)  # a wrong address fails before any work
    results = Results.read(params, paths)
    write_page(results, params, paths)
    publish_or_warn(params, paths)
    for line in warnings(results):
        logger.warning("%s", line)
    where = paths.report.relative_to(paths.root)
    logger.info("the report is %s; `kdeov summary` prints its tables, `kdeov ui` shows runs", where)


def write_page(results: Results, params: Params, paths: Layout) -> None:
    """Writes `out/report/index.html`, and its figures for MLflow.

    Raises:
        KdeovError: Student, export, predictions or test split are missing or damaged.
    """
    gallery, fingerprint = Gallery(params, paths), results.run.fingerprint
    predictions = Predictions.read(paths.evaluation, fingerprint) if results.zero_shot else None
    count = params.report.examples
    heat_maps = examples(count, predictions, gallery, load_student(params, paths))
    captions: list[Query] = []
    if results.retrieval:
        hits = read_arrays(paths.evaluation / "retrieval" / "hits.npz", fingerprint)
        captions = queries(max(2, count // 2), hits, gallery)
    marked: list[MarkedImage] = []
    if results.detection is not None:
        found = read_arrays(paths.evaluation / "detection" / "found.npz", fingerprint)
        numbers = choose(found, count, threshold_of(found))
        gallery.load(numbers)
        marked = marked_images(found, numbers, gallery.whole)
    classes = classes_part(predictions, results.zero_shot, gallery) if predictions else None
    facts, provenance = DataFacts.read(paths, params.data.storage), Provenance.read(results, paths)
    page = render(results, Parts(heat_maps, captions, marked, classes, facts, provenance))
    figures = {"training_curves": training_curves(results.history)}
    if predictions is not None:
        figures["confusion_matrix"] = _matrix(predictions)
    figures |= {f"heat_map_{n}": example.heat for n, example in enumerate(heat_maps)}
    with writing_folder(paths.report.parent) as folder:
        write_text(folder / paths.report.name, page)
        for name, png in figures.items():
            with writing(folder / "figures" / f"{name}.png") as file:
                file.write(png)


def _matrix(predictions: Predictions) -> bytes:
    """The confusion matrix as PNG: with names, or of many classes in blocks."""
    if len(predictions.names) > MAX_NAMED:
        return block_png(predictions)[0]
    return confusion_matrix(predictions.labels, predictions.predicted["student"], predictions.names)
