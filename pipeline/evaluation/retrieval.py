"""Stage `retrieval`: images by caption and captions by image, teacher against student.

Recall at 1, 5 and 10 as CLIP_benchmark counts it: a query is a hit if any of its matches is among
the first k.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from kdeov.evaluation.metrics import compare, first_hits, retrieval_ceiling
from kdeov.evaluation.metrics import retrieval as retrieval_metrics
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.answers import write_answers
from pipeline.evaluation.shared.embeddings import (
    load_student,
    read_split,
    run_student,
    write_absent,
    write_arrays,
)
from pipeline.evaluation.shared.protocol import images_part, protocol
from pipeline.evaluation.shared.reranking import gains, rerank
from pipeline.storage.checked import write_checked_json

logger = logging.getLogger(__name__)

NUM_HITS_SHOWN = 5  # per query, in the report


def retrieval(params: Params, paths: Layout) -> None:
    """Writes `metrics/retrieval.json`, and the first hits of every caption for the report.

    `ceiling` has the largest recalls that captions which several images share allow. A data set
    without captions, or with one test image, has no metrics; the file and the log give the reason.

    Raises:
        KdeovError: Inputs do not fit together.
    """
    dataset = Dataset.read(paths.images)
    options = params.retrieval
    cached = read_split(params, paths, "test", captions=True)
    record = RunRecord.read(paths.student)
    if not cached.captions or cached.size < 2:
        reason = f"{dataset.name} has no captions"
        if cached.captions:
            reason = "a search among one image is always right"
        write_absent(paths.metrics / "retrieval.json", dataset.name, "retrieval", reason)
        _write_hits(paths, record, torch.empty(0, NUM_HITS_SHOWN), cached.image_of_text)
        write_answers(paths.evaluation / "retrieval", record.fingerprint, 0, {})
        return
    fusion_is_trained = record.fusion_is_trained
    count = min(options.rerank, cached.size) if fusion_is_trained else 0
    if options.rerank and not fusion_is_trained:
        logger.info("no re-ranking: the student's fusion was not trained")
    model = load_student(params, paths)
    output = run_student(params, paths, model, "test", dense=count > 0)
    teacher = None
    if cached.teacher is not None:  # first: only the student's similarities are needed later
        teacher = retrieval_metrics(_similarity(cached.teacher, cached.texts), cached.image_of_text)
    similarity = _similarity(output.embedding, cached.texts)
    student = retrieval_metrics(similarity, cached.image_of_text)
    result: dict[str, Any] = {
        **compare(
            teacher,
            student,
            cached.size,
            options.bootstrap_samples,
            counts={"images": cached.size, "texts": len(cached.captions)},
        ),
        "ceiling": retrieval_ceiling(cached.captions, cached.image_of_text),
        "fingerprint": record.fingerprint,
        **protocol(
            "retrieval",
            images_part(
                dataset, ShardFolder(paths.images, params.data.storage), len(cached.captions)
            ),
            "R@k with any match among the first k",
            transform=model.transform,
            bootstrap_samples=options.bootstrap_samples,
        ),
    }
    if output.dense is not None:
        reranked = rerank(
            model.student.fusion,
            output.dense,
            cached.texts,
            similarity,
            cached.image_of_text,
            count,
            model.device,
        )
        result["reranked"] = gains(student, reranked, cached.size, options.bootstrap_samples)
        result["reranked"]["count"] = count
    write_checked_json(paths.metrics / "retrieval.json", {dataset.name: result})
    _write_hits(paths, record, first_hits(similarity.T, NUM_HITS_SHOWN), cached.image_of_text)
    both = {"student": student} if teacher is None else {"teacher": teacher, "student": student}
    write_answers(paths.evaluation / "retrieval", record.fingerprint, cached.size, both)
    for key, direction in (("i2t_r5", "image to text"), ("t2i_r5", "text to image")):
        models = [name for name in ("student", "teacher") if name in result]
        values = [f"{name} {result[name][key]:.3f}" for name in (*models, "ceiling")]
        logger.info("R@5 %s: %s", direction, ", ".join(values))


def _similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines [N, M] of unit image embeddings [N, D] and unit text embeddings [M, D]."""
    return (texts @ images.T).T


def _write_hits(paths: Layout, record: RunRecord, hits: Tensor, image_of_text: Tensor) -> None:
    write_arrays(
        paths.evaluation / "retrieval" / "hits.npz",
        fingerprint=record.fingerprint,
        hits=hits.to(torch.int32),
        image_of_text=image_of_text,
    )
