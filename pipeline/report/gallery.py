"""The images of the report: what the student looks at, and what texts find."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdeov.models.model import KDEOVModel
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.report.figures import heat_overlay, image_jpeg, image_png

SIDE = 160  # pixels of the images on the page
THUMBNAIL = 96


class Gallery:
    """The test split: all captions, and those images that are kept, with the teacher's vectors of
    their captions.
    """

    def __init__(self, params: Params, layout: Layout) -> None:
        self._shards = open_cache(params, layout, "test")
        self._samples: dict[int, PairedSample] = {}

    @cached_property
    def captions(self) -> list[str]:
        """Of all images, in order."""
        return [caption for sample in self._shards for caption in sample.captions]

    def keep(self, numbers: Iterable[int]) -> None:
        """Reads the images of these numbers, which then can be asked for."""
        missing = np.array(sorted(set(numbers) - self._samples.keys()), dtype=int)
        bounds = self._shards.offsets
        for shard, (first, last) in enumerate(pairwise(bounds.tolist())):
            within = set((missing[(first <= missing) & (missing < last)] - first).tolist())
            if within:
                self._samples |= self._shards.read(shard, within.__contains__)

    def __getitem__(self, number: int) -> Image.Image:
        """The centred square that both models see."""
        image = Image.open(io.BytesIO(self._samples[number].jpeg)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def __len__(self) -> int:
        return len(self._shards)

    def first_caption(self, number: int) -> tuple[str, Tensor]:
        """An image's first caption and its vector [D]."""
        sample = self._samples[number]
        return sample.captions[0], torch.from_numpy(sample.text_embeddings[0].astype(np.float32))


def examples(
    count: int, predictions: dict[str, np.ndarray] | None, gallery: Gallery, model: KDEOVModel
) -> list[dict[str, Any]]:
    """Images with the heat map of their class or caption: half of them right, half wrong where
    there are such; none where images have neither.

    Args:
        count: How many at most.
        predictions: What `zero_shot` wrote, where it did.
        gallery: The test split.
        model: The student.
    """
    shown = []
    chosen = _chosen(count, predictions, gallery)
    gallery.keep(number for number, _ in chosen)
    for number, about in chosen:
        image = gallery[number]
        heat = model.heatmap(image, about.pop("vector")[None])[0, 0].cpu().numpy()
        about["image"] = image_png(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        about["heat"] = heat_overlay(image, heat, SIDE)
        shown.append(about)
    return shown


def _chosen(
    count: int, predictions: dict[str, np.ndarray] | None, gallery: Gallery
) -> list[tuple[int, dict[str, Any]]]:
    """Numbers of images, and for each its text, the text's vector and what the models say."""
    if predictions is None:
        if not gallery.captions:
            return []
        chosen = []
        numbers = spread(np.arange(len(gallery)), min(count, len(gallery)))
        gallery.keep(numbers)
        for number in numbers:
            text, vector = gallery.first_caption(number)
            chosen.append((number, {"text": text, "vector": vector}))
        return chosen
    labels, names = predictions["labels"], predictions["names"]
    right = np.flatnonzero(predictions["student"] == labels)
    wrong = np.flatnonzero(predictions["student"] != labels)
    rows = spread(wrong, min(len(wrong), count // 2))
    rows = spread(right, min(len(right), count - len(rows))) + rows
    return [
        (
            int(predictions["images"][row]),
            {
                "text": str(names[labels[row]]),
                "vector": torch.from_numpy(predictions["vectors"][labels[row]]),
                "said": {
                    who: str(names[predictions[who][row]])
                    for who in ("teacher", "student")
                    if who in predictions
                },
            },
        )
        for row in rows
    ]


def queries(count: int, hits: dict[str, np.ndarray], gallery: Gallery) -> list[dict[str, Any]]:
    """Captions with their first hits: some found at the first place, some not among the shown.

    Args:
        count: How many of each kind at most.
        hits: What `retrieval` wrote.
        gallery: The test split.
    """
    own, found = hits["image_of_text"], hits["hits"]
    first = np.flatnonzero(found[:, 0] == own)
    missed = np.flatnonzero((found != own[:, None]).all(axis=1))
    texts = spread(first, min(len(first), count)) + spread(missed, min(len(missed), count))
    gallery.keep(found[texts].flatten().tolist())
    return [
        {
            "caption": gallery.captions[t],
            "hit": bool(found[t, 0] == own[t]),
            "hits": [
                {"image": image_jpeg(gallery[int(n)], THUMBNAIL), "right": bool(n == own[t])}
                for n in found[t]
            ],
        }
        for t in texts
    ]


def spread(numbers: np.ndarray, count: int) -> list[int]:
    """Some of the numbers, evenly spread."""
    places = np.linspace(0, len(numbers) - 1, count).astype(int)
    return [int(numbers[place]) for place in places]
