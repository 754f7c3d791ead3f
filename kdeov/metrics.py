"""Zero-shot and retrieval metrics on embeddings, as CLIP_benchmark counts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdeov.errors import KdeovError

RECALLS = (1, 5, 10)


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows whose label is among the k highest logits. [N, K] and [N]."""
    hits = logits.topk(min(k, logits.shape[1]), dim=1).indices == labels[:, None]
    return hits.any(dim=1).float().mean().item()


def mean_per_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean of the recalls of the classes that occur. [N, K] and [N]."""
    right = logits.argmax(dim=1) == labels
    return torch.stack([right[labels == c].float().mean() for c in labels.unique()]).mean().item()


def classification(
    logits: Tensor, labels: Tensor, held_out: Sequence[int] = ()
) -> dict[str, float]:
    """Zero-shot metrics over all classes, with seen and held-out labels apart where some are held
    out.

    Args:
        logits: [N, K] similarities to all K classes.
        labels: [N] class numbers.
        held_out: Classes that training never saw. They compete with all others.

    Returns:
        `top1`, `top5`, `mean_per_class`, `count`, and where classes are held out `seen_top1`,
        `heldout_top1`.
    """
    result = {
        "top1": top_k_accuracy(logits, labels, 1),
        "top5": top_k_accuracy(logits, labels, 5),
        "mean_per_class": mean_per_class_accuracy(logits, labels),
        "count": len(labels),
    }
    if held_out:
        unseen = torch.isin(labels, torch.tensor(list(held_out), device=labels.device))
        for name, rows in (("seen", ~unseen), ("heldout", unseen)):
            if rows.any():
                result[f"{name}_top1"] = top_k_accuracy(logits[rows], labels[rows], 1)
    return result


def retrieval(similarity: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """Retrieval metrics in both directions.

    R@k counts a query as a hit when at least one of its matches is among the first k; a rank is one
    plus the number of candidates that are strictly more similar than the best match.

    Args:
        similarity: [N, M] pictures against texts.
        image_of_text: [M] the picture that each text describes.

    Returns:
        `i2t_r1` ... `t2i_r10` as shares, `i2t_median_rank`, `t2i_median_rank`.

    Raises:
        KdeovError: A similarity is not finite.
    """
    if not similarity.isfinite().all():  # a NaN compares as no better than anything: all hits
        raise KdeovError("similarities are not finite; look at the embeddings they come from")
    t2i, i2t = retrieval_ranks(similarity, image_of_text)
    result: dict[str, float] = {}
    for name, ranks in (("i2t", i2t), ("t2i", t2i)):
        for k in RECALLS:
            result[f"{name}_r{k}"] = (ranks <= k).float().mean().item()
        result[f"{name}_median_rank"] = ranks.float().median().item()
    result["images"], result["texts"] = similarity.shape
    return result


def retrieval_ranks(similarity: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of the best match of each text among the pictures [M], and of each picture among the
    texts [N].
    """
    texts = torch.arange(similarity.shape[1], device=similarity.device)
    own = similarity[image_of_text, texts]
    t2i = (similarity > own).sum(dim=0) + 1
    best = torch.full((similarity.shape[0],), float("-inf"), device=similarity.device)
    best = best.scatter_reduce(0, image_of_text, own, "amax")
    i2t = (similarity > best[:, None]).sum(dim=1) + 1
    return t2i, i2t


def retained(teacher: dict[str, float], student: dict[str, float]) -> dict[str, float | None]:
    """The student's share of each of the teacher's metrics; None where the teacher has nothing to
    share.

    Counts are left out; ranks, for which less is better, are divided the other way round.
    """
    result: dict[str, float | None] = {}
    for name, value in teacher.items():
        if name in ("count", "images", "texts"):
            continue
        over, under = (value, student[name]) if name.endswith("rank") else (student[name], value)
        result[name] = over / under if under else None
    return result
