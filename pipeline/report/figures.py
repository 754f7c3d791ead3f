"""The report's figures as PNG bytes, the same for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

STUDENT, TEACHER, GREY = "#0f766e", "#b45309", "#64748b"
POINTS: dict[str, Any] = {"marker": "o", "markersize": 3}  # one epoch makes no line


def training_curves(history: list[dict[str, float]]) -> bytes:
    """Loss, validation cosine and learning rate by epoch."""
    figure = Figure(figsize=(10.5, 3), layout="constrained")
    loss, cosine, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    totals, losses = ([row[key] for row in history] for key in ("train_total", "val_loss"))
    loss.plot(epochs, totals, label="training", color=GREY, **POINTS)
    loss.plot(epochs, losses, label="validation (feature)", color=STUDENT, **POINTS)
    loss.set_title("loss")
    loss.legend(frameon=False)
    cosine.plot(epochs, [row["val_cosine"] for row in history], color=STUDENT, **POINTS)
    cosine.set_title("cosine with the teacher, validation")
    rate.plot(epochs, [row["learning_rate"] for row in history], color=GREY, **POINTS)
    rate.set_title("learning rate")
    for axes in (loss, cosine, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return _png(figure)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> bytes:
    """Rows are true classes, columns what the student says; shares of each row."""
    count = len(classes)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (labels, predicted), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(11.0, max(4.5, 0.15 * count + 2))
    figure = Figure(figsize=(side, 0.88 * side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="BuGn", vmin=0, vmax=1)
    figure.colorbar(image, shrink=0.5, label="share of the class")
    axes.set_xlabel("student says")
    axes.set_ylabel("class")
    if count <= 80:
        axes.set_xticks(range(count), classes, rotation=90, fontsize=6)
        axes.set_yticks(range(count), classes, fontsize=6)
    return _png(figure)


def heat_overlay(image: Image.Image, heat: np.ndarray, side: int) -> bytes:
    """An image with its heat map over it; the map [h, w] is scaled to its own range."""
    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) / max(high - low, 1e-6)
    colours = np.asarray(mpl.colormaps["inferno"](scaled))[..., :3]
    layer = Image.fromarray((colours * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    base = image.resize((side, side), Image.Resampling.BICUBIC)
    return image_png(Image.blend(base, layer, 0.5))


def image_png(image: Image.Image) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_jpeg(image: Image.Image, side: int) -> bytes:
    """A square thumbnail as JPEG."""
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
