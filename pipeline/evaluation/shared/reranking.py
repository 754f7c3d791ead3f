"""What re-ranking by fusion changes: the first images that the index finds for a text, in an
order of the fusion module's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdeov.evaluation.bootstrap import Mean, Statistic, distributions, values_of
from kdeov.evaluation.metrics import INTERVAL, RECALLS, first_hits, intervals
from kdeov.models.fusion import CrossModalFusionModule, fusion_scores
from pipeline.console import progress

BATCH = 64  # texts
HELPS, DOES_NOT = "helps", "does not help"


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
    """Text-to-image recalls after fusion has put the first `count` hits of each text into its own
    order.

    Args:
        fusion: The module.
        dense: [N, D, h, w] dense maps of the images.
        texts: [M, D] unit vectors.
        similarity: [N, M] images against texts, which the index sorts by.
        image_of_text: [M] the image of each text.
        count: Hits that are put in order, N at most.
        device: Of the module.
    """
    shown = min(max(count, *RECALLS), len(dense))
    top, rest = first_hits(similarity.T, shown).split([count, shown - count], dim=1)
    found = []
    with progress("re-rank", len(top), "texts") as bar:
        for rows in torch.arange(len(top)).split(BATCH):
            maps = dense[top[rows].flatten()].float().to(device)
            queries = texts[rows].repeat_interleave(count, dim=0)[:, None].to(device)
            scores = fusion_scores(fusion, maps, queries).view(len(rows), count).cpu()
            order = top[rows].gather(1, scores.argsort(dim=1, descending=True, stable=True))
            right = torch.cat([order, rest[rows]], dim=1) == image_of_text[rows, None]
            found.append(torch.stack([right[:, :k].any(dim=1) for k in RECALLS], dim=1))
            bar.update(len(rows))
    hits, owners = torch.cat(found).numpy(), image_of_text.numpy()
    return {
        f"t2i_r{k}": Mean.of(hits[:, column], owners, size=len(dense))
        for column, k in enumerate(RECALLS)
    }


def gains(
    before: Mapping[str, Statistic],
    after: Mapping[str, Statistic],
    size: int,
    bootstrap_samples: int,
) -> dict[str, Any]:
    """Metrics after re-ranking, and `gain_...` over the index, with intervals of the paired
    differences.

    Returns:
        The metrics, `interval`, and `verdict`: it helps where the interval of a gain lies above 0
        and none lies below.
    """
    old, new = values_of(before, size), values_of(after, size)
    draws = {
        "old": distributions(before, size, bootstrap_samples),
        "new": distributions(after, size, bootstrap_samples),
    }
    bounds = intervals(
        {
            **draws["new"],
            **{f"gain_{name}": draws["new"][name] - draws["old"][name] for name in after},
        }
    )
    verdicts = [gain_verdict(bounds[f"gain_{name}"]) for name in after]
    return {
        **new,
        **{f"gain_{name}": new[name] - old[name] for name in after},
        INTERVAL: bounds,
        "verdict": HELPS if HELPS in verdicts and "hurts" not in verdicts else DOES_NOT,
    }


def rerank_verdict(verdict: str) -> str:
    """The verdict of `gains` with what it was judged by."""
    return f"{verdict}, judged at R@{', R@'.join(map(str, RECALLS))}"


def gain_verdict(bounds: Sequence[float]) -> str:
    """What the interval of a gain says: `helps`, `hurts`, or `no effect` where it contains 0."""
    low, high = bounds
    return HELPS if low > 0 else "hurts" if high < 0 else "no effect"
