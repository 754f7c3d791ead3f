"""`image.int8.onnx`: as many layers in 8 bits as leave the answers as they are."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.export.onnx import Session
from kdeov.export.quantize import CHEAP_OPERATORS, MATRIX_OPERATORS, Quantizer, quantizer_of
from kdeov.runtime.card import IMAGE, INT8
from kdeov.runtime.images import pad_to_stride

MIN_AGREEMENT = 0.97
MIN_IMAGES = 2
BATCH = 32
REPEATS = 20
SQNR_IMAGES = 32  # by which layers are ranked


@dataclass(frozen=True)
class Quantized:
    """A quantized model.

    Attributes:
        model: Serialized.
        card: Its part of the card.
    """

    model: bytes
    card: dict[str, Any]


def write_int8(
    folder: Path,
    image: bytes,
    images: np.ndarray,
    classes: np.ndarray | None,
    min_agreement: float = MIN_AGREEMENT,
) -> Quantized:
    """Writes `image.int8.onnx`.

    Every other image gives the ranges of activations; by the rest, the file is compared with
    `image.onnx`: by the class of the largest cosine or, without classes, by the nearest other
    image. While a smaller share than `min_agreement` agrees, parts return to float32: first all but
    convolutions and matrix products, then these one at a time, the one first that alone does the
    most harm.

    Args:
        folder: It exists.
        image: `image.onnx`.
        images: uint8 [N, 3, H, W] (see `calibration_pixels`).
        classes: [K, D] unit class embeddings, or None.
        min_agreement: Smallest share of equal answers.

    Raises:
        DataError: The network cannot be quantized, or too few answers agree.
    """
    held_out = images[1::2]
    plain = embed(Session(image), held_out)
    answers = _answers(plain, classes)

    def agreement(model: bytes) -> float:
        found = _answers(plain, classes, embed(Session(model), held_out))
        return float((found == answers).mean())

    with quantizer_of(image, images[::2]) as quantizer:
        search = _Search(quantizer, agreement, min_agreement)
        model, share, operators, returned = search.run(plain, held_out)
    (folder / INT8).write_bytes(model)
    found = embed(Session(model), held_out)
    cosines = (found * plain).sum(axis=1)
    card = {
        "agreement": round(share, 4),
        "agreement_of": "nearest image" if classes is None else "top-1 class",
        "images": len(held_out),
        "cosine": {"mean": round(float(cosines.mean()), 4), "min": round(float(cosines.min()), 4)},
        "operators": list(operators),
        "float32_layers": returned,
        "calibration": {
            "images": len(images[::2]),
            "sha256": hashlib.sha256(np.ascontiguousarray(images[::2]).tobytes()).hexdigest(),
        },
        "measured": latency(image, model, images[:1]),
    }
    return Quantized(model, card)


def calibration_pixels(images: np.ndarray, stride: int) -> np.ndarray:
    """Images whose sides are multiples of a stride; the right and lower edges are repeated.

    Args:
        images: uint8 [N, 3, S, S], at least `MIN_IMAGES`.
        stride: Of the backbone's last level.

    Raises:
        ConfigError: They are something else.
    """
    fits = images.ndim == 4 and images.shape[1] == 3 and images.dtype == np.uint8
    if not fits or len(images) < MIN_IMAGES:
        raise ConfigError(
            f"calibration images of shape {list(images.shape)} and type {images.dtype}; give uint8 "
            f"[N, 3, S, S] with at least {MIN_IMAGES} images, or none to leave INT8 out"
        )
    return pad_to_stride(images, stride)


def embed(session: Session, images: np.ndarray) -> np.ndarray:
    """Unit embeddings [N, D] of uint8 images [N, 3, H, W]."""
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([session({"pixels": batch})["embedding"] for batch in batches])


def latency(image: bytes, quantized: bytes, pixels: np.ndarray) -> dict[str, float]:
    """Median times of one image on one thread of this machine, in turn, in milliseconds."""
    sessions = {IMAGE: Session(image), INT8: Session(quantized)}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(REPEATS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session({"pixels": pixels})
            times[name].append(time.perf_counter() - start)
    plain, int8 = (1000 * statistics.median(times[name][1:]) for name in (IMAGE, INT8))
    return {
        "float32_ms": round(plain, 3),
        "int8_ms": round(int8, 3),
        "int8_per_float32": round(int8 / plain, 3),
    }


@dataclass(frozen=True)
class _Search:
    """The search for the first model that agrees.

    Attributes:
        quantizer: Makes models.
        agreement: The share of equal answers of a model.
        min_agreement: The share that is enough.
    """

    quantizer: Quantizer
    agreement: Callable[[bytes], float]
    min_agreement: float

    def run(
        self, plain: np.ndarray, images: np.ndarray
    ) -> tuple[bytes, float, Sequence[str], list[str]]:
        """The model, its agreement, the kinds of nodes that it quantizes, and the layers that are
        in float32 again.
        """
        returned: list[str] = []
        for operators in ((*MATRIX_OPERATORS, *CHEAP_OPERATORS), MATRIX_OPERATORS):
            model = self.quantizer.quantized(operators)
            if (share := self.agreement(model)) >= self.min_agreement:
                return model, share, operators, returned
        for node in _by_harm(self.quantizer, plain, images):
            returned.append(node)
            model = self.quantizer.quantized(MATRIX_OPERATORS, skip=returned)
            if (share := self.agreement(model)) >= self.min_agreement:
                names = [self.quantizer.layers[name] for name in returned]
                return model, share, MATRIX_OPERATORS, names
        raise DataError(
            f"{INT8}: {share:.3f} of the answers agree with float32 (at least "
            f"{self.min_agreement}), even with every layer in float32; give other calibration "
            "images, or none"
        )


def _by_harm(quantizer: Quantizer, plain: np.ndarray, images: np.ndarray) -> list[str]:
    """Nodes by the ratio of signal to quantization noise (SQNR) of the embeddings where that node
    alone is quantized, lowest first.
    """
    plain, images = plain[:SQNR_IMAGES], images[:SQNR_IMAGES]

    def sqnr(node: str) -> float:
        model = quantizer.quantized(MATRIX_OPERATORS, only=[node])
        noise = ((embed(Session(model), images) - plain) ** 2).sum()
        return float(10 * np.log10((plain**2).sum() / max(noise, 1e-20)))

    return sorted(quantizer.layers, key=sqnr)


def _answers(
    index: np.ndarray, classes: np.ndarray | None, queries: np.ndarray | None = None
) -> np.ndarray:
    """Numbers [N] of the nearest class or, without classes, of the nearest other row of `index`,
    for each of the queries, which are `index` itself where None.
    """
    queries = index if queries is None else queries
    if classes is not None:
        return (queries @ classes.T).argmax(axis=1)
    cosines = queries @ index.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(axis=1)
