"""Latency of one image on one thread: the exported student against open_clip's image towers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kdeov.runtime.card import IMAGE, INT8
from kdeov.runtime.session import Session
from pipeline.bench.figures import Figure
from pipeline.bench.run.towers import Embed, onnx_call, reference_tower, torch_call
from pipeline.bench.sizes import RunSizes
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.runtime.device import cpu_threads

STUDENT = {"student_onnx": IMAGE, "student_int8": INT8}
FORMS = {"student_onnx": "float32", "student_int8": "int8"}
TORCH, ONNX = "torch", "onnx"
RUNTIMES = {TORCH: "PyTorch", ONNX: "ONNX Runtime"}
SUFFIX = "_ms"  # of the names of latencies


def latency_figures(export: Path, sizes: RunSizes) -> list[Figure]:
    """Measures the latency of each tower, and how many times the student is faster.

    Weights are random. Bars are against the references in PyTorch, as open_clip runs them; in ONNX
    Runtime, as the student, they have none.

    Args:
        export: An export of the student.
        sizes: Sizes of the measurements.
    """
    times = _times(export, sizes)
    milliseconds = {name: 1000 * statistics.median(values) for name, values in times.items()}
    figures = [
        Figure(f"{name}{SUFFIX}", value, None, "one image, one thread")
        for name, value in milliseconds.items()
    ]
    for architecture, bar in sizes.references:
        name = key_of(architecture)
        for runtime, end, promised in ((TORCH, "", bar), (ONNX, "_onnx", None)):
            for student, form in FORMS.items():
                if (reference := f"{name}_{runtime}") in times:
                    ratio = median_ratio(times[reference], times[student])
                    note = f"times its speed in {RUNTIMES[runtime]}"
                    figures.append(Figure(f"{form}_against_{name}{end}", ratio, promised, note))
    ratio = median_ratio(times["student_onnx"], times["student_int8"])
    figures.append(Figure("int8_against_float32", ratio, 1, "times its speed"))
    return figures


def key_of(architecture: str) -> str:
    """The name of an architecture in figures: `vit_b_32`."""
    return architecture.lower().replace("-", "_")


@torch.inference_mode()
def _times(export: Path, sizes: RunSizes) -> Mapping[str, Sequence[float]]:
    """Seconds by tower and round."""
    size = sizes.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8)
    normalized = (pixels.astype(np.float32) - 128) / 64
    calls: dict[str, Embed] = {}
    for name, file in STUDENT.items():
        session = Session(export / file, ["embedding"], "CPU", threads=1)
        calls[name] = partial(_embed, session)
    for architecture, _ in sizes.references:
        tower, name = reference_tower(architecture), key_of(architecture)
        calls[f"{name}_{TORCH}"] = torch_call(tower)
        if (exported := onnx_call(tower, architecture, size)) is not None:
            calls[f"{name}_{ONNX}"] = exported
    inputs = {name: pixels if name in STUDENT else normalized for name in calls}
    with cpu_threads(1):
        return interleaved(
            {name: partial(call, inputs[name]) for name, call in calls.items()}, sizes.repeats
        )


def _embed(session: Session, pixels: np.ndarray) -> object:
    return session(pixels=pixels)
