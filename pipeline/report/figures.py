"""Figures of the report, as PNG or JPEG bytes; equal numbers give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pipeline.report.figure_text import class_labels, plain_text

STUDENT_COLOR, TEACHER_COLOR, GRAY = "#0f766e", "#b45309", "#64748b"
POINTS: dict[str, Any] = {"marker": "o", "markersize": 3}  # a single epoch is visible too
MAX_LABELLED = 80  # classes; the labels of more would overlap


@plain_text()
def training_curves(history: list[dict[str, float]]) -> bytes:
    """Loss, validation cosine and learning rate by epoch, as PNG.

    Args:
        history: The rows of `metrics/history.csv`.
    """
    figure = Figure(figsize=(10.5, 3), layout="constrained")
    loss, cosine, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    train_loss, val_loss = ([row[key] for row in history] for key in ("train_total", "val_loss"))
    loss.plot(epochs, train_loss, label="training, all terms", color=GRAY, **POINTS)
    loss.plot(epochs, val_loss, label="validation, feature term", color=STUDENT_COLOR, **POINTS)
    loss.set_title("loss")
    loss.legend(frameon=False)
    cosine.plot(epochs, [row["val_cosine"] for row in history], color=STUDENT_COLOR, **POINTS)
    cosine.set_title("cosine with the teacher, validation")
    rate.plot(epochs, [row["learning_rate"] for row in history], color=GRAY, **POINTS)
    rate.set_title("learning rate")
    for axes in (loss, cosine, rate):
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return _png(figure)


@plain_text()
def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> bytes:
    """The confusion matrix as PNG: row i, column j is the share of class i classified as j.

    Args:
        labels: [N] class numbers.
        predicted: [N] predicted class numbers.
        classes: Class names; the figure shows their `class_labels`, of up to `MAX_LABELLED`.
    """
    count = len(classes)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (labels, predicted), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = class_labels(classes) if count <= MAX_LABELLED else []
    font_size = 6 if count > 30 else 8
    longest = 0.012 * font_size * max(map(len, names), default=0)  # inches, about
    side = min(11.0, max(4.5, 0.15 * count + 1.2 + longest))
    figure = Figure(figsize=(side, 0.88 * side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="BuGn", vmin=0, vmax=1)
    figure.colorbar(image, shrink=0.5, label="share of the class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if names:
        axes.set_xticks(range(count), names, rotation=90, fontsize=font_size)
        axes.set_yticks(range(count), names, fontsize=font_size)
    return _png(figure)


def heat_overlay(image: Image.Image, heat: np.ndarray, side: int) -> bytes:
    """An image blended with its heat map, as PNG of `side` x `side` pixels.

    Args:
        image: A square image.
        heat: [h, w] heat map; its minimum and maximum become the ends of the color scale.
        side: Pixels.
    """
    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) / max(high - low, 1e-6)
    colors = np.asarray(mpl.colormaps["inferno"](scaled))[..., :3]
    layer = Image.fromarray((colors * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    base = image.resize((side, side), Image.Resampling.BICUBIC)
    return image_png(Image.blend(base, layer, 0.5))


def image_png(image: Image.Image) -> bytes:
    """Encodes an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_jpeg(image: Image.Image, side: int) -> bytes:
    """Encodes a thumbnail of `side` x `side` pixels as JPEG."""
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
