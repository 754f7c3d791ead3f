"""Bytes and latencies of the student in each form: PyTorch, ONNX and INT8, from pixels to unit
embeddings.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdeov.errors import DataError
from kdeov.export.tower import ImageTower
from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import IMAGE, INT8, Card, read_card, require_file
from kdeov.runtime.images import pad_to_stride
from kdeov.runtime.session import Session
from pipeline.artifacts.run import RunRecord
from pipeline.config.paths import Layout
from pipeline.config.stage_params import EfficiencyParams
from pipeline.evaluation.shared.timing import interleaved
from pipeline.runtime.device import cpu_threads

FILES = {"onnx": IMAGE, "int8": INT8}
ONE, ALL = "one_thread", "all_threads"
REST_S = 0.1  # in which the threads of PyTorch and ONNX Runtime stop spinning


def export_of(paths: Layout) -> Card:
    """The card of `out/export`.

    Raises:
        DataError: The export is missing or damaged, or of another student.
    """
    card, run = read_card(paths.export), RunRecord.read(paths.student)
    if card.fingerprint != run.fingerprint:
        raise DataError(
            f"{paths.export}: the export of the run {card.fingerprint}, the student is of "
            f"{run.fingerprint}; run `dvc repro export`"
        )
    return card


def available_threads() -> int:
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def measure_forms(
    student: KDEOVModel, folder: Path, card: Card, weights: Path, params: EfficiencyParams
) -> dict[str, Any]:
    """Measures every form on this machine's CPU, at the student's own image size.

    Args:
        student: On the CPU.
        folder: Its export.
        card: That of the export.
        weights: The file that PyTorch loads.
        params: Batch size and number of rounds.

    Returns:
        By form, `file_bytes` and `latency_ms`: medians of one forward pass over uint8 pixels, by
        number of threads and by number of images. A form that the export lacks is None.
    """
    counts = {ONE: 1, ALL: available_threads()}
    times = {
        name: _latencies(_towers(student, folder, card, threads), threads, student, params)
        for name, threads in counts.items()
    }
    files = {"torch": weights, **{form: folder / file for form, file in FILES.items()}}
    forms = {
        form: {
            "file_bytes": path.stat().st_size,
            "latency_ms": {
                name: {str(batch): found[form] for batch, found in by_batch.items()}
                for name, by_batch in times.items()
            },
        }
        for form, path in files.items()
        if form == "torch" or path.name in card.files
    }
    return {
        "image_size": student.transform.size,
        "batch_size": params.batch_size,
        "threads": counts[ALL],
        "forms": {form: forms.get(form) for form in files},
    }


def _towers(
    student: KDEOVModel, folder: Path, card: Card, threads: int
) -> dict[str, Callable[[np.ndarray], object]]:
    """Functions from pixels to embeddings, by form."""
    tower, normalize = ImageTower(student.student), student.transform.normalize
    exported = {
        form: onnx_tower(folder, card, file, threads)
        for form, file in FILES.items()
        if file in card.files
    }
    return {"torch": lambda pixels: tower(normalize(torch.from_numpy(pixels))), **exported}


def onnx_tower(
    folder: Path, card: Card, file: str, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A file of an export as a function from pixels uint8 [B, 3, S, S] to embeddings [B, D].

    Raises:
        DataError: The file is missing, damaged or replaced.
    """
    session = Session(require_file(folder, card, file), ["embedding"], "CPU", threads)

    def embed(pixels: np.ndarray) -> np.ndarray:
        return session(pixels=pad_to_stride(pixels, card.stride))[0]

    return embed


@torch.inference_mode()
def _latencies(
    towers: Mapping[str, Callable[[np.ndarray], object]],
    threads: int,
    student: KDEOVModel,
    params: EfficiencyParams,
) -> dict[int, dict[str, float]]:
    """Milliseconds by number of images and by form."""
    size, found = student.transform.size, {}
    for batch in dict.fromkeys((1, params.batch_size)):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
        calls: dict[str, Callable[[], object]] = {
            form: partial(embed, pixels) for form, embed in towers.items()
        }
        repeats = params.repeats if batch == 1 else max(3, params.repeats // 5)
        with cpu_threads(threads):
            times = interleaved(calls, repeats, REST_S if threads > 1 else 0)
        found[batch] = {form: 1000 * statistics.median(values) for form, values in times.items()}
    return found
