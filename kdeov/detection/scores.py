"""Scores of boxes and classes: each depends on its box and its class alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

TINY = 1e-12  # below it, log scores are cut off


@dataclass(frozen=True)
class ScoreParams:
    """The three numbers of a score, fitted on base classes of the validation split.

    Attributes:
        scale: a, by which cosines are multiplied.
        bias: b, which is added.
        beta: Share of the class in the geometric mean with the objectness, from 0 to 1.
    """

    scale: float = 20.0
    bias: float = -10.0
    beta: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """The fields, in JSON types."""
        return asdict(self)


def detection_scores(objectness: Tensor, cosines: Tensor, params: ScoreParams) -> Tensor:
    """o^(1 - beta) * sigmoid(a cos + b)^beta: a geometric mean of the objectness o and of the
    probability of a class, in the manner of F-VLM (Kuo et al., 2023, arXiv:2209.15639). There is no
    softmax: classes that are added change no score.

    Args:
        objectness: [..., P], from 0 to 1.
        cosines: [..., P, K], of region embeddings with class embeddings.
        params: a, b and beta.

    Returns:
        [..., P, K], from 0 to 1.
    """
    # logarithms: 0^0 and underflow of both factors need no cases
    classes = torch.nn.functional.logsigmoid(params.scale * cosines + params.bias)
    objects = objectness.clamp(min=TINY).log().unsqueeze(-1)
    return ((1 - params.beta) * objects + params.beta * classes).exp()
