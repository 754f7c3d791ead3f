"""Embeddings of many images: decoded in threads, embedded in batches, in order."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from kdeov.errors import DataError
from pipeline.inference.models import InferenceModel

BATCH = 16  # images of a forward pass
BATCHES_AHEAD = 3  # that are decoded while one is embedded


@dataclass(frozen=True)
class Embedded:
    """An image and its unit embedding, float32 [D]."""

    path: Path
    embedding: np.ndarray


def embedded_images(
    model: InferenceModel, paths: Iterable[Path | DataError]
) -> Iterator[Embedded | DataError]:
    """Embeds images in order.

    Args:
        model: Embeds them.
        paths: Images, and errors of `image_paths`, which are passed on.

    Yields:
        An embedding, or the error of what could not be read.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and still read
    source = iter(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting: deque[list[tuple[Path, Future[np.ndarray]] | DataError]] = deque()

        def submit() -> None:
            batch: list[tuple[Path, Future[np.ndarray]] | DataError] = []
            for item in islice(source, BATCH):
                if isinstance(item, DataError):
                    batch.append(item)
                else:
                    batch.append((item, pool.submit(model.preprocess, item)))
            if batch:
                waiting.append(batch)

        try:
            submit()
            while waiting:
                while len(waiting) <= BATCHES_AHEAD:
                    before = len(waiting)
                    submit()
                    if len(waiting) == before:
                        break
                yield from _embedded(model, waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _embedded(
    model: InferenceModel, batch: list[tuple[Path, Future[np.ndarray]] | DataError]
) -> Iterator[Embedded | DataError]:
    decoded: list[tuple[Path, np.ndarray] | DataError] = []
    for item in batch:
        if isinstance(item, DataError):
            decoded.append(item)
            continue
        path, future = item
        try:
            decoded.append((path, future.result()))
        except DataError as error:
            decoded.append(error)
    pixels = [read[1] for read in decoded if not isinstance(read, DataError)]
    embeddings = iter(model.embed_pixels(np.stack(pixels)) if pixels else ())
    for read in decoded:
        yield read if isinstance(read, DataError) else Embedded(read[0], next(embeddings))
