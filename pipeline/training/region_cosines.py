"""The metric of regions: cosine of the student's regions with the teacher's crops, by area."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.models.student import VisualStudent
from kdeov.training.distributed import sum_over_ranks
from kdeov.training.forward import has_area

BANDS = {"1/36-1/16": 1 / 16, "1/16-1/4": 1 / 4, "1/4-1": 1.0}
"""Upper ends of the bands of area, as shares of the shown square. The first one holds what is
smaller too, such as small annotated objects."""
ALL = "val_region_cosine"


class RegionCosines:
    """Sums over the regions of a split that the plain view shows whole.

    Args:
        student: In evaluation mode.
        num_regions: Regions of each image; with 0 there is no metric.
    """

    def __init__(self, student: VisualStudent, num_regions: int) -> None:
        self.student, self.num_regions = student, num_regions
        self.sums = torch.zeros(len(BANDS), 2, dtype=torch.float64)

    def add(self, pixels: Tensor, boxes: Tensor, targets: Tensor) -> None:
        """Adds a batch.

        Args:
            pixels: [B, 3, S, S], normalised.
            boxes: [B, R, 4] in pixels; those without an area are left out.
            targets: [B, R, D], the teacher's embeddings.
        """
        if not self.num_regions:
            return
        found = self.student.encode_regions(pixels, boxes).float()
        cosines = F.cosine_similarity(found, targets, dim=-1).double().cpu()
        sides = (boxes[..., 2:] - boxes[..., :2]).double().cpu()
        area = sides.prod(dim=-1) / (pixels.shape[-2] * pixels.shape[-1])
        ends = torch.tensor(list(BANDS.values()), dtype=torch.float64)
        band = torch.bucketize(area, ends).clamp(max=len(BANDS) - 1)
        inside = has_area(boxes).cpu()
        for number in range(len(BANDS)):
            here = cosines[inside & (band == number)]
            self.sums[number] += torch.tensor([here.sum(), len(here)], dtype=torch.float64)

    def means(self, device: str) -> dict[str, float]:
        """The mean over all regions and over those of each band that holds any; a collective call
        where there are regions.
        """
        if not self.num_regions:
            return {}
        sums = sum_over_ranks(self.sums.to(device)).cpu()
        named = {ALL: sums.sum(0), **{f"{ALL} {n}": s for n, s in zip(BANDS, sums, strict=True)}}
        return {name: (s[0] / s[1]).item() for name, s in named.items() if s[1]}


def region_metrics(row: Mapping[str, float]) -> dict[str, Any]:
    """`region_cosine` of an epoch for `metrics/distill.json`, by band; nothing without regions."""
    if ALL not in row:
        return {}
    bands = {name: row[f"{ALL} {name}"] for name in BANDS if f"{ALL} {name}" in row}
    return {"region_cosine": {"all": row[ALL], **bands}}
