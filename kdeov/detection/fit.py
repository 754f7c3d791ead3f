"""Fits the three numbers of a score to proposals on annotated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.detection.scores import ScoreParams
from kdeov.errors import DataError

BETAS = tuple(round(0.05 * k, 2) for k in range(1, 20))
TOLERANCE = 0.01  # of the quality by which a share of the class is chosen
NEWTON_STEPS = 50
RIDGE = 1e-6  # keeps the scale finite where classes can be told apart without an error


def fit_logistic(cosines: Tensor, classes: Tensor) -> tuple[float, float]:
    """a and b of sigmoid(a cos + b), the probability that a region is of a class, by maximum
    likelihood (logistic regression, of which Platt's scaling is a case; Platt, 1999).

    Args:
        cosines: [R, K], of regions with class embeddings.
        classes: [R], the class of each region.

    Raises:
        DataError: There is no region, or only one class.
    """
    if not len(cosines) or cosines.shape[1] < 2:
        raise DataError(
            f"{len(cosines)} proposals on boxes of {cosines.shape[1]} base classes of the val "
            "split: no score can be fitted to them; give the val split boxes of two classes, or "
            "train longer"
        )
    x = cosines.double().flatten()
    y = F.one_hot(classes, cosines.shape[1]).double().flatten()
    center, spread = x.mean(), x.std().clamp(min=1e-6)
    z = (x - center) / spread
    weights = torch.tensor([0.0, torch.logit(y.mean()).item()], dtype=torch.float64)
    design = torch.stack([z, torch.ones_like(z)], dim=1)

    def loss_of(weights: Tensor) -> Tensor:
        logits = design @ weights
        return F.binary_cross_entropy_with_logits(logits, y) + RIDGE * weights[0] ** 2

    for _ in range(NEWTON_STEPS):
        p = (design @ weights).sigmoid()
        gradient = design.T @ (p - y) / len(y)
        gradient[0] += 2 * RIDGE * weights[0]
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(y)
        hessian += torch.diag(torch.tensor([2 * RIDGE, 1e-12], dtype=torch.float64))
        step = torch.linalg.solve(hessian, gradient)
        before, size = loss_of(weights), 1.0
        while size > 1e-6 and loss_of(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if step.abs().max() < 1e-9:
            break
    scale = (weights[0] / spread).item()
    return scale, (weights[1] - weights[0] * center / spread).item()


def choose_beta(
    scale: float,
    bias: float,
    quality: Callable[[ScoreParams], float],
    betas: Sequence[float] = BETAS,
) -> ScoreParams:
    """The largest share of the class in the score whose quality is at most `TOLERANCE` below the
    best. Where the order of boxes is settled by the objectness, many shares rank alike, and the
    largest tells classes of one box apart best.

    Args:
        scale: a.
        bias: b.
        quality: Of scores with these params, larger being better: say the AP50 of base classes.
        betas: Values to choose from.
    """
    candidates = [ScoreParams(scale, bias, beta) for beta in betas]
    qualities = [quality(params) for params in candidates]
    good = [
        p for p, q in zip(candidates, qualities, strict=True) if q >= max(qualities) - TOLERANCE
    ]
    return max(good, key=lambda params: params.beta)
