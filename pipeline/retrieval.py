"""Stage `retrieval`: pictures by caption and captions by picture, teacher against student."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from kdeov.fusion import CrossModalFusionModule, fusion_scores
from kdeov.metrics import RECALLS, retained
from kdeov.metrics import retrieval as retrieval_metrics
from pipeline.console import progress
from pipeline.dataset import Dataset
from pipeline.evaluation import TestEmbeddings, embed_test_split, load_student, write_arrays
from pipeline.files import write_json
from pipeline.layout import Layout
from pipeline.params import Params

logger = logging.getLogger(__name__)

SHOWN = 5  # hits that the report may show


def retrieval(params: Params, layout: Layout) -> None:
    """Writes `metrics/retrieval.json`, and hits for the report.

    Raises:
        KdeovError: Inputs do not fit together.
    """
    dataset = Dataset.read(layout.images)
    model = load_student(params, layout)
    rerank = params.retrieval.rerank
    test = embed_test_split(params, layout, model, dense=rerank > 0)
    similarity = {"teacher": test.teacher @ test.texts.T, "student": test.student @ test.texts.T}
    scores = {name: retrieval_metrics(s, test.image_of_text) for name, s in similarity.items()}
    result = {
        **scores,
        "retained": retained(scores["teacher"], scores["student"]),
        "protocol": f"retrieval/{len(test.keys)} pictures, {len(test.captions)} captions/any match/"
        f"{model.transform.size} px center",
    }
    if rerank:
        reranked = _rerank(
            model.student.fusion, test, similarity["student"], rerank, str(model.device)
        )
        gain = {f"gain_{k}": reranked[k] - scores["student"][k] for k in reranked}
        result["reranked"] = {"count": rerank, **reranked, **gain}
    write_json(layout.metrics / "retrieval.json", {dataset.name: result})
    hits = similarity["student"].topk(min(SHOWN, len(test.keys)), dim=0).indices.T
    write_arrays(
        layout.evaluation / "retrieval" / "hits.npz",
        hits=hits.to(torch.int32),
        image_of_text=test.image_of_text,
    )
    logger.info(
        "R@5 picture to text: teacher %.3f, student %.3f; text to picture: %.3f, %.3f",
        scores["teacher"]["i2t_r5"], scores["student"]["i2t_r5"],
        scores["teacher"]["t2i_r5"], scores["student"]["t2i_r5"],
    )  # fmt: skip


@torch.no_grad()
def _rerank(
    fusion: CrossModalFusionModule,
    test: TestEmbeddings,
    similarity: Tensor,
    count: int,
    device: str,
) -> dict[str, float]:
    """Text-to-picture recalls after fusion has put the first `count` hits of each text into its own
    order.
    """
    assert test.dense is not None
    count = min(count, len(test.keys))
    shown = min(max(count, *RECALLS), len(test.keys))
    top, rest = similarity.topk(shown, dim=0).indices.T.split([count, shown - count], dim=1)
    found = torch.zeros(len(RECALLS))
    with progress("re-rank", len(top), "texts") as meter:
        for rows in torch.arange(len(top)).split(64):
            dense = test.dense[top[rows].flatten()].float().to(device)
            texts = test.texts[rows].repeat_interleave(count, dim=0)[:, None].to(device)
            scores = fusion_scores(fusion, dense, texts).view(len(rows), count).cpu()
            order = top[rows].gather(1, scores.argsort(dim=1, descending=True, stable=True))
            order = torch.cat([order, rest[rows]], dim=1)
            right = order == test.image_of_text[rows, None]
            found += torch.stack([right[:, :k].any(dim=1).sum() for k in RECALLS])
            meter.advance(len(rows))
    return {f"t2i_r{k}": (n / len(top)).item() for k, n in zip(RECALLS, found, strict=True)}
