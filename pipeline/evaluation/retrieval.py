"""Stage `retrieval`: images by caption and captions by image, teacher against student."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from kdeov.evaluation.metrics import compare, first_hits
from kdeov.evaluation.metrics import retrieval as retrieval_metrics
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import (
    load_student,
    read_split,
    run_student,
    write_absent,
    write_arrays,
)
from pipeline.evaluation.shared.protocol import images_part, protocol
from pipeline.evaluation.shared.reranking import gains, rerank
from pipeline.storage.files import write_json

logger = logging.getLogger(__name__)

SHOWN = 5  # hits that the report may show


def retrieval(params: Params, layout: Layout) -> None:
    """Writes `metrics/retrieval.json`, and hits for the report.

    A data set without captions has nothing to retrieve by; metrics and log say so.

    Raises:
        KdeovError: Inputs do not fit together.
    """
    dataset = Dataset.read(layout.images)
    options = params.retrieval
    cached = read_split(params, layout, "test", captions=True)
    if not cached.captions:
        reason = f"{dataset.name} has no captions"
        write_absent(layout.metrics / "retrieval.json", dataset.name, "retrieval", reason)
        _write_hits(layout, torch.empty(0, SHOWN), cached.image_of_text)
        return
    trained = RunRecord.read(layout.student).fusion_is_trained
    count = min(options.rerank, cached.size) if trained else 0
    if options.rerank and not trained:
        logger.info("the student's fusion was not trained: nothing is re-ranked")
    model = load_student(params, layout)
    student = run_student(params, layout, model, "test", dense=count > 0)
    theirs = None
    if cached.teacher is not None:  # first, as only the student's similarities are needed later
        theirs = retrieval_metrics(_similarity(cached.teacher, cached.texts), cached.image_of_text)
    similarity = _similarity(student.embedding, cached.texts)
    own = retrieval_metrics(similarity, cached.image_of_text)
    result: dict[str, Any] = {
        **compare(
            theirs, own, cached.size, options.bootstrap_samples,
            counts={"images": cached.size, "texts": len(cached.captions)},
        ),
        **protocol(
            "retrieval", images_part(dataset, layout.images, len(cached.captions)),
            "R@k with any match among the first k",
            transform=model.transform, bootstrap_samples=options.bootstrap_samples,
        ),
    }  # fmt: skip
    if count:
        assert student.dense is not None
        fused = rerank(
            model.student.fusion, student.dense, cached.texts, similarity, cached.image_of_text,
            count, model.device,
        )  # fmt: skip
        result["reranked"] = gains(own, fused, cached.size, options.bootstrap_samples) | {
            "count": count
        }
    write_json(layout.metrics / "retrieval.json", {dataset.name: result})
    _write_hits(layout, first_hits(similarity.T, SHOWN), cached.image_of_text)
    for way, words in (("i2t", "image to text"), ("t2i", "text to image")):
        on_progress = [
            f"{who} {result[who][f'{way}_r5']:.3f}"
            for who in ("student", "teacher")
            if who in result
        ]
        logger.info("R@5 %s: %s", words, ", ".join(on_progress))


def _similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Images against texts, [N, M]."""
    return (texts @ images.T).T


def _write_hits(layout: Layout, hits: Tensor, image_of_text: Tensor) -> None:
    write_arrays(
        layout.evaluation / "retrieval" / "hits.npz",
        hits=hits.to(torch.int32),
        image_of_text=image_of_text,
    )
