"""The teacher's embeddings of true boxes: what it sees of an object when nothing else is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.rendering import StoredImage, render
from kdeov.data.views import View
from kdeov.teachers.base import TowerTeacher
from pipeline.console import progress
from pipeline.evaluation.objects.annotated import Annotated

BATCH_SIZE = 64


@torch.no_grad()
def embed_crops(
    teacher: TowerTeacher, images: Iterable[StoredImage], annotated: Annotated, margin: float
) -> Tensor:
    """Unit embeddings [G, D] of the true boxes that are no crowds, each with a margin, and resized
    to the teacher's square as cached views are.

    Args:
        teacher: The teacher.
        images: The images, in the order of `annotated`.
        annotated: Their objects.
        margin: See `crop_view`.
    """
    objects = annotated.objects.take(annotated.plain)
    transform = teacher.transform
    device = next(teacher.parameters()).device

    def crops() -> Iterable[Tensor]:
        row = 0
        for number, image in enumerate(images):
            while row < len(objects) and objects.images[row] == number:
                view = crop_view(objects.boxes[row].tolist(), image.size, margin)
                yield render(image, view, transform.size, transform.interpolation)
                row += 1

    found = [torch.empty(0, teacher.embed_dim)]
    with progress("embed true boxes with the teacher", len(objects), "boxes") as bar:
        pending = iter(crops())
        while batch := list(islice(pending, BATCH_SIZE)):
            pixels = transform.normalize(torch.stack(batch).to(device))
            found.append(F.normalize(teacher.encode_image(pixels).float(), dim=-1).cpu())
            bar.update(len(batch))
    return torch.cat(found)


def crop_view(box: list[float], size: tuple[int, int], margin: float) -> View:
    """The crop of a box.

    Args:
        box: Left, top, right, bottom in pixels of the image.
        size: Width and height of the image.
        margin: Added on each side, as a share of the box's width or height.

    Returns:
        Whole pixels within the image, one at least.
    """
    near, far = box[:2], box[2:]
    added = [margin * (end - start) for start, end in zip(near, far, strict=True)]
    spans = []
    for start, end, more, side in zip(near, far, added, size, strict=True):
        first = min(max(0, math.floor(start - more)), side - 1)
        spans.append((first, max(1, min(math.ceil(end + more), side) - first)))
    (left, width), (top, height) = spans
    return View(left, top, width, height)
