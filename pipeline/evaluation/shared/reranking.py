"""Re-ranking by fusion: the fusion module reorders the first images that the index finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdeov.evaluation.bootstrap import Mean, Statistic, distributions, values_of
from kdeov.evaluation.metrics import INTERVAL, RECALLS, first_hits, intervals
from kdeov.models.fusion import CrossModalFusionModule, fusion_scores
from pipeline.console import progress

TEXTS_AT_A_TIME = 64  # of an image: what is computed for them fits the cache of a core
HELPS, HURTS, NO_EFFECT, DOES_NOT_HELP = "helps", "hurts", "no effect", "does not help"


@torch.no_grad()
def rerank(
    fusion: CrossModalFusionModule,
    dense: Tensor,
    texts: Tensor,
    similarity: Tensor,
    image_of_text: Tensor,
    count: int,
    device: torch.device,
) -> dict[str, Statistic]:
    """Text-to-image recalls after re-ranking.

    For each text, the first `count` images by `similarity` are sorted by the cosine of their fused
    embedding with the text; later ones keep their places.

    Args:
        fusion: The fusion module.
        dense: [N, D, h, w] dense maps of the images.
        texts: [M, D] unit text embeddings.
        similarity: [N, M] cosines of images and texts, the order of the index.
        image_of_text: [M] number of the image that each text describes.
        count: Number of images to reorder, at most N.
        device: Device of the fusion module.

    Returns:
        `t2i_r1`, `t2i_r5`, `t2i_r10`, each over N images.
    """
    depth = min(max(count, *RECALLS), len(dense))
    top, rest = first_hits(similarity.T, depth).split([count, depth - count], dim=1)
    scores = pair_scores(fusion, dense, texts, top, device)
    order = top.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    right = torch.cat([order, rest], dim=1) == image_of_text[:, None]
    hits = torch.stack([right[:, :k].any(dim=1) for k in RECALLS], dim=1).numpy()
    image_numbers = image_of_text.numpy()
    return {
        f"t2i_r{k}": Mean.of(hits[:, column], image_numbers, size=len(dense))
        for column, k in enumerate(RECALLS)
    }


@torch.no_grad()
def pair_scores(
    fusion: CrossModalFusionModule,
    dense: Tensor,
    texts: Tensor,
    images: Tensor,
    device: torch.device,
) -> Tensor:
    """Cosines of images, conditioned on a text, with that text: `fusion_scores` of many pairs.

    The pairs of an image are scored together, so that its map is prepared once, and the part of
    each text is computed once for all images.

    Args:
        fusion: The fusion module.
        dense: [N, D, h, w] dense maps of the images.
        texts: [M, D] unit text embeddings.
        images: [M, K] numbers of the images that each text is paired with.
        device: Device of the fusion module.

    Returns:
        [M, K], float32, on the CPU.
    """
    pairs = images.flatten()
    order = pairs.argsort(stable=True)
    text_of_pair = (order // images.shape[1]).to(device)
    texts = texts.to(device)
    conditions = fusion.condition(texts)
    sizes = pairs.bincount(minlength=len(dense))
    blocks = []
    with progress("re-rank", len(pairs), "pairs") as bar:
        for number, rows in enumerate(text_of_pair.split(sizes.tolist())):
            for part in rows.split(TEXTS_AT_A_TIME) if len(rows) else ():
                image = dense[number : number + 1].to(device).float()
                found = fusion_scores(fusion, image, texts[part][None], conditions[part][None])
                blocks.append(found[0])
            bar.update(len(rows))
    scores = torch.empty(len(pairs))
    scores[order] = torch.cat(blocks).cpu()
    return scores.view(images.shape)


def gains(
    before: Mapping[str, Statistic],
    after: Mapping[str, Statistic],
    size: int,
    bootstrap_samples: int,
) -> dict[str, Any]:
    """Metrics after re-ranking, and their gains over the index.

    Args:
        before: Metrics by the order of the index.
        after: Metrics after re-ranking; a subset of the keys of `before`.
        size: Number of images, N.
        bootstrap_samples: Number of bootstrap samples; both orders share them (paired bootstrap).

    Returns:
        Each metric of `after`, its difference as `gain_...`, `interval` with 95% bootstrap
        intervals of both, and `verdict`: `helps` if a gain's interval lies above 0 and none lies
        below, else `does not help`.
    """
    old, new = values_of(before, size), values_of(after, size)
    old_draws = distributions(before, size, bootstrap_samples)
    new_draws = distributions(after, size, bootstrap_samples)
    bounds = intervals(
        {
            **new_draws,
            **{f"gain_{name}": new_draws[name] - old_draws[name] for name in after},
        }
    )
    verdicts = [gain_verdict(bounds[f"gain_{name}"]) for name in after]
    return {
        **new,
        **{f"gain_{name}": new[name] - old[name] for name in after},
        INTERVAL: bounds,
        "verdict": HELPS if HELPS in verdicts and HURTS not in verdicts else DOES_NOT_HELP,
    }


def rerank_verdict(verdict: str) -> str:
    """The verdict of `gains`, with the metrics that it rests on."""
    return f"{verdict}, judged by R@{', R@'.join(map(str, RECALLS))}"


def gain_verdict(bounds: Sequence[float]) -> str:
    """`helps`, `hurts`, or `no effect` if the interval [low, high] of a gain contains 0."""
    low, high = bounds
    return HELPS if low > 0 else HURTS if high < 0 else NO_EFFECT
