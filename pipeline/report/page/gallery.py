"""Images of the report: heat maps of the student, and the first hits of captions."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdeov.models.model import KDEOVModel
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.report.classes.predictions import Predictions
from pipeline.report.figures import heat_overlay, image_jpeg, image_png

IMAGE_SIDE, THUMBNAIL_SIDE = 160, 96  # pixels


@dataclass
class Example:
    """An image with the student's heat map of a text.

    Attributes:
        text: Class name or caption of the image.
        image: PNG.
        heat: PNG of the image with its heat map.
        predictions: Predicted class name by model; empty for captions.
    """

    text: str
    image: bytes
    heat: bytes
    predictions: dict[str, str] = field(default_factory=dict)


@dataclass
class Query:
    """A caption with its first hits.

    Attributes:
        caption: The caption.
        is_found: Whether its own image is the first hit.
        hits: JPEG thumbnails, each with whether it is the caption's own image.
    """

    caption: str
    is_found: bool
    hits: list[tuple[bytes, bool]]


class Gallery:
    """The test split: all captions, and the images that were loaded by number.

    Args:
        params: Params of the run.
        paths: Paths of the checkout.
    """

    def __init__(self, params: Params, paths: Layout) -> None:
        self._shards = open_cache(params, paths, "test")
        self._samples: dict[int, PairedSample] = {}

    @cached_property
    def captions(self) -> list[str]:
        """The captions of all images, in order."""
        return [caption for sample in self._shards for caption in sample.captions]

    def load(self, numbers: Iterable[int]) -> None:
        """Reads the images of these numbers from their shards; others stay on disk."""
        missing = np.array(sorted(set(numbers) - self._samples.keys()), dtype=int)
        bounds = self._shards.offsets
        for shard, (first, last) in enumerate(pairwise(bounds.tolist())):
            within = set((missing[(first <= missing) & (missing < last)] - first).tolist())
            if within:
                self._samples |= self._shards.read(
                    shard, within.__contains__, max(within) + 1, min(within)
                )

    @property
    def loaded(self) -> list[int]:
        """Numbers of the images in memory, sorted."""
        return sorted(self._samples)

    def __getitem__(self, number: int) -> Image.Image:
        """The central square of a loaded image, which both models see."""
        image = self.whole(number)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def whole(self, number: int) -> Image.Image:
        """A loaded image in RGB."""
        return Image.open(io.BytesIO(self._samples[number].jpeg)).convert("RGB")

    def __len__(self) -> int:
        return len(self._shards)

    def first_caption(self, number: int) -> tuple[str, Tensor]:
        """The first caption of a loaded image, and the teacher's embedding [D] of it."""
        sample = self._samples[number]
        return sample.captions[0], torch.from_numpy(sample.text_embeddings[0].astype(np.float32))


@dataclass
class _Choice:
    """The image of an example, its text, and the text's embedding [D]."""

    number: int
    text: str
    embedding: Tensor
    predictions: dict[str, str] = field(default_factory=dict)


def examples(
    count: int, predictions: Predictions | None, gallery: Gallery, model: KDEOVModel
) -> list[Example]:
    """Images with the heat map of their class name or first caption.

    Args:
        count: Largest number of examples. With predictions, up to half of them are images that
            the student classified wrongly.
        predictions: Of `zero_shot`; None if the data set has no labels.
        gallery: The test split.
        model: The student.

    Returns:
        The examples; none if the images have neither labels nor captions.
    """
    choices = (
        _labelled(count, predictions)
        if predictions is not None
        else _captioned(min(count, len(gallery)), gallery)
    )
    gallery.load(choice.number for choice in choices)
    found = []
    for choice in choices:
        image = gallery[choice.number]
        heat = model.heatmap(image, choice.embedding[None])[0, 0].cpu().numpy()
        found.append(
            Example(
                text=choice.text,
                image=image_png(image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)),
                heat=heat_overlay(image, heat, IMAGE_SIDE),
                predictions=choice.predictions,
            )
        )
    return found


def _captioned(count: int, gallery: Gallery) -> list[_Choice]:
    if not gallery.captions:
        return []
    numbers = evenly_spaced(np.arange(len(gallery)), count)
    gallery.load(numbers)
    return [_Choice(number, *gallery.first_caption(number)) for number in numbers]


def _labelled(count: int, predictions: Predictions) -> list[_Choice]:
    labels, names, is_right = predictions.labels, predictions.names, predictions.right("student")
    right, wrong = np.flatnonzero(is_right), np.flatnonzero(~is_right)
    rows = evenly_spaced(wrong, min(len(wrong), count // 2))
    rows = evenly_spaced(right, min(len(right), count - len(rows))) + rows
    return [
        _Choice(
            int(predictions.images[row]),
            names[labels[row]],
            torch.from_numpy(predictions.weights[labels[row]]),
            {model: names[predictions.predicted[model][row]] for model in predictions.models},
        )
        for row in rows
    ]


def queries(count: int, hits: dict[str, np.ndarray], gallery: Gallery) -> list[Query]:
    """Captions with their first hits.

    Args:
        count: Largest number of captions whose own image is the first hit, and of captions whose
            own image is not among the hits.
        hits: The arrays that `retrieval` wrote.
        gallery: The test split.
    """
    own, found = hits["image_of_text"], hits["hits"]
    first = np.flatnonzero(found[:, 0] == own)
    missed = np.flatnonzero((found != own[:, None]).all(axis=1))
    texts = evenly_spaced(first, min(len(first), count))
    texts += evenly_spaced(missed, min(len(missed), count))
    gallery.load(found[texts].flatten().tolist())
    return [
        Query(
            caption=gallery.captions[t],
            is_found=bool(found[t, 0] == own[t]),
            hits=[
                (image_jpeg(gallery[int(n)], THUMBNAIL_SIDE), bool(n == own[t])) for n in found[t]
            ],
        )
        for t in texts
    ]


def evenly_spaced(numbers: np.ndarray, count: int) -> list[int]:
    """Picks `count` of the numbers at even distances, the first and the last among them."""
    positions = np.linspace(0, len(numbers) - 1, count).astype(int)
    return [int(numbers[position]) for position in positions]
