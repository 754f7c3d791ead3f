"""Zero-shot and retrieval metrics on embeddings, defined as in CLIP_benchmark, with intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import comb, fsum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdeov.errors import DataError
from kdeov.evaluation.bootstrap import (
    Mean,
    MeanPerClass,
    Median,
    Statistic,
    distributions,
    interval,
    values_of,
)

RECALLS = (1, 5, 10)
BLOCK = 256  # queries per block; a copy of all similarities would not fit in memory
INTERVAL = "interval"


def classification(
    logits: Tensor, labels: Tensor, held_out: Sequence[int] = ()
) -> dict[str, Statistic]:
    """Classification metrics over all classes, and separately for seen and held-out labels where
    classes are held out.

    Args:
        logits: [N, K] similarities to all K classes.
        labels: [N] class numbers.
        held_out: Classes that were not in the training data. They compete with all others.

    Returns:
        `top1`, `top5` (of five classes or more), `mean_per_class` (the mean of the recalls of the
        classes that occur), and where classes are held out `seen_top1`, `heldout_top1`; each over
        N images.

    Raises:
        DataError: A logit is not finite.
    """
    _require_finite(logits)
    best = logits.topk(5 if logits.shape[1] >= 5 else 1, dim=1).indices
    hits = (best == labels[:, None]).numpy()
    right = (logits.argmax(dim=1) == labels).numpy()
    result: dict[str, Statistic] = {
        "top1": Mean.of(hits[:, 0]),
        "mean_per_class": MeanPerClass(right, labels.numpy()),
    }
    if hits.shape[1] == 5:
        result["top5"] = Mean.of(hits.any(axis=1))
    if held_out:
        unseen = torch.isin(labels, torch.tensor(list(held_out))).numpy()
        for name, rows in (("seen", ~unseen), ("heldout", unseen)):
            if rows.any():
                result[f"{name}_top1"] = Mean.of(
                    hits[rows, 0], np.flatnonzero(rows), size=len(labels)
                )
    return result


def retrieval(similarity: Tensor, image_of_text: Tensor) -> dict[str, Statistic]:
    """Retrieval metrics in both directions.

    R@k counts a query as a hit when at least one of its matches is among the first k of
    `topk`. A rank is one plus the number of other candidates that are at least as similar as the
    best match.

    Args:
        similarity: [N, M] images against texts.
        image_of_text: [M] the image that each text describes.

    Returns:
        `i2t_r1` ... `t2i_r10` as shares, `i2t_median_rank`, `t2i_median_rank`; each over N
        images.

    Raises:
        DataError: A similarity is not finite.
    """
    _require_finite(similarity)
    images = torch.arange(len(similarity))
    ranks = retrieval_ranks(similarity, image_of_text)
    result: dict[str, Statistic] = {}
    for name, scores, owners, own, rank in (
        ("i2t", similarity, image_of_text, images, ranks[1]),
        ("t2i", similarity.T, images, image_of_text, ranks[0]),
    ):
        for k in RECALLS:
            hits = (owners[first_hits(scores, k)] == own[:, None]).any(dim=1)
            result[f"{name}_r{k}"] = Mean.of(hits.numpy(), own.numpy(), size=len(images))
        result[f"{name}_median_rank"] = Median(rank.numpy(), own.numpy())
    return result


def retrieval_ceiling(texts: Sequence[str], image_of_text: Tensor) -> dict[str, float]:
    """The largest recalls that a model can have on these texts, on average over the order of
    equal similarities; below 1 where several images share a text.

    Equal texts have equal embeddings. As queries they find the same images; as candidates they
    tie, and only some of them are an image's own. With one text for each of C classes, R@1 of N
    images is C / N even for a classifier that is always right.

    Args:
        texts: M texts.
        image_of_text: [M] the image that each text describes.

    Returns:
        `i2t_r1` ... `t2i_r10`, as `retrieval` names them, over the images that have a text.
    """
    owned: dict[str, Counter[int]] = defaultdict(Counter)  # text to how often each image has it
    for text, image in zip(texts, image_of_text.tolist(), strict=True):
        owned[text][image] += 1
    result = {}
    for k in RECALLS:
        best: dict[int, float] = defaultdict(float)
        for images in owned.values():
            total = images.total()
            for image, own in images.items():
                draws = comb(total, min(k, total))  # of the tied texts, those that come first
                misses = comb(total - own, min(k, total))
                best[image] = max(best[image], (draws - misses) / draws)
        result[f"i2t_r{k}"] = fsum(best.values()) / len(best)
        found = sum(count for images in owned.values() for _, count in images.most_common(k))
        result[f"t2i_r{k}"] = found / len(texts)
    return result


def first_hits(scores: Tensor, count: int) -> Tensor:
    """The first candidates of `topk` for each query.

    Args:
        scores: [Q, C] similarities of queries and candidates.
        count: Number of hits, k; all candidates where there are fewer.

    Returns:
        [Q, min(k, C)] numbers of candidates.
    """
    count = min(count, scores.shape[1])
    return torch.cat([block.topk(count, dim=1).indices for block in scores.split(BLOCK)])


def retrieval_ranks(similarity: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of the best match of each text among the images [M], and of each image among the
    texts [N]; candidates that are just as similar count as better.
    """
    texts = torch.arange(similarity.shape[1])
    own = similarity[image_of_text, texts]
    t2i = _at_least(similarity.T, own)
    best = torch.full((len(similarity),), float("-inf"), dtype=own.dtype)
    best = best.scatter_reduce(0, image_of_text, own, "amax")
    matches = torch.zeros(len(similarity), dtype=torch.long)
    matches.index_add_(0, image_of_text, (own == best[image_of_text]).long())
    return t2i, _at_least(similarity, best) - matches + 1


def _at_least(scores: Tensor, bars: Tensor) -> Tensor:
    """The number of each query's scores [Q, C] that reach its bar [Q]."""
    blocks = zip(scores.split(BLOCK), bars.split(BLOCK), strict=True)
    return torch.cat([(block >= bar[:, None]).sum(dim=1) for block, bar in blocks])


def compare(
    teacher: Mapping[str, Statistic] | None,
    student: Mapping[str, Statistic],
    size: int,
    bootstrap_samples: int,
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Values and 95% bootstrap intervals of teacher, student and the share that the student
    retains, in the same bootstrap samples.

    Args:
        teacher: Metrics of the teacher, or None where there is nothing to compare with.
        student: The same metrics of the student.
        size: Number of images, N.
        bootstrap_samples: Number of bootstrap samples.
        counts: Numbers of images, classes and the like, to report beside the metrics.

    Returns:
        `teacher`, `student` and `retained`, or the student's alone: each has its metrics by name,
        and `interval` has [low, high] of each that has one. A share is None where the teacher's
        value is 0, and has no interval where that happens in a bootstrap sample.
    """
    models = {"student": student} if teacher is None else {"teacher": teacher, "student": student}
    values = {name: values_of(metrics, size) for name, metrics in models.items()}
    draws = {
        name: distributions(metrics, size, bootstrap_samples) for name, metrics in models.items()
    }
    result: dict[str, Any] = {
        name: {**values[name], **(counts or {}), INTERVAL: intervals(draws[name])}
        for name in models
    }
    if teacher is not None:
        shares = {
            name: _share(name, draw, draws["student"][name])
            for name, draw in draws["teacher"].items()
        }
        result["retained"] = {
            **retained(values["teacher"], values["student"]),
            INTERVAL: intervals({n: s for n, s in shares.items() if not np.isinf(s).any()}),
        }
    return result


def intervals(draws: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The intervals of distributions, where they have one."""
    found = {name: interval(values) for name, values in draws.items()}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def retained(teacher: Mapping[str, float], student: Mapping[str, float]) -> dict[str, float | None]:
    """The student's share of each of the teacher's metrics; None where the teacher's value
    is 0.

    Ranks, for which less is better, are divided the other way round.
    """
    shares = {
        name: float(_share(name, np.array(value), np.array(student[name])))
        for name, value in teacher.items()
    }
    return {name: share if np.isfinite(share) else None for name, share in shares.items()}


def _share(name: str, teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """The student's share; infinite where the teacher's value is 0, NaN where one is NaN."""
    over, under = (teacher, student) if name.endswith("rank") else (student, teacher)
    known = ~(np.isnan(over) | np.isnan(under))
    share = np.divide(over, under, out=np.full(over.shape, np.inf), where=under != 0)
    return np.where(known, share, np.nan)


def _require_finite(values: Tensor) -> None:
    # a NaN compares as no better than anything
    if not all(block.isfinite().all() for block in values.split(BLOCK)):
        raise DataError("similarities are not finite; check the embeddings they come from")
