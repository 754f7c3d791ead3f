"""Proposals of an exported box head: from an image to the regions that may be objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kdeov.data.images import to_rgb
from kdeov.detection.letterbox import Letterbox
from kdeov.errors import DataError
from kdeov.runtime.card import DETECT, Card, require_file
from kdeov.runtime.detections import Regions
from kdeov.runtime.golden import read_golden, require_equal_detections
from kdeov.runtime.session import Providers, Session

OUTPUTS = ("boxes", "objectness", "embeddings")
NO_BOXES = (
    "train a box head (train_boxes.kind) and run `dvc repro export`, or export with "
    "`kdeov export FOLDER --boxes FOLDER`"
)


class Proposer:
    """The box head of an export, compared with its golden outputs when it is opened.

    Args:
        folder: The export.
        card: Of that folder.
        providers: See `Session`.
        threads: See `Session`.

    Raises:
        ConfigError: A provider that is not available.
        DataError: The export has no box head, or it is damaged, or gives other outputs than at
            export.
    """

    def __init__(
        self, folder: Path, card: Card, providers: Providers = None, threads: int | None = None
    ):
        if card.detection is None:
            raise DataError(f"{folder}: exported without {DETECT}; {NO_BOXES}")
        self.card = card.detection
        self._interpolation: str = card.transform["interpolation"]
        path = require_file(folder, card, DETECT)
        self._session = Session(path, [*OUTPUTS, "scores"], providers, threads)
        self._classes = np.zeros((1, card.embed_dim), np.float32)
        pixels, classes, *golden = read_golden(
            folder, card, "detect_pixels", "classes", *(f"detect_{name}" for name in OUTPUTS)
        )
        found = self._session(pixels=pixels, classes=classes)[: len(OUTPUTS)]
        require_equal_detections(found, golden, self._session)

    def __call__(self, image: Image.Image) -> Regions:
        """The proposals of an image of any mode; boxes that lie outside of it are left out."""
        shown = to_rgb(image)
        letterbox = Letterbox.fit(shown.size, self.card.image_size)
        pixels = letterbox.pixels(shown, self._interpolation)[None]
        boxes, objectness, embeddings, _ = self._session(pixels=pixels, classes=self._classes)
        inside = letterbox.to_image(boxes).astype(np.float32)
        kept = (inside[:, 2:] > inside[:, :2]).all(axis=1)
        return Regions(inside[kept], objectness[kept], embeddings[kept], boxes[kept], shown.size)
