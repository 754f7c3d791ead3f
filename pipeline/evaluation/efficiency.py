"""Stage `efficiency`: parameters, multiply-accumulates (MACs), bytes and latency of the image
towers of student, teacher and CLIP ViT-B/32 on this machine; the student also in its deployed
forms, with what INT8 costs.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdeov.export.tower import ImageTower
from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import CARD, Card
from kdeov.teachers.base import TowerTeacher
from kdeov.weights.clip import import_clip
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.stage_params import EfficiencyParams
from pipeline.evaluation.deployed.forms import export_of, measure_forms
from pipeline.evaluation.deployed.int8_cost import int8_cost
from pipeline.evaluation.shared.student import student_of
from pipeline.evaluation.shared.timing import interleaved
from pipeline.runtime.device import cpu_threads
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import sha256_file
from pipeline.teachers.load import Teacher, load_teacher

logger = logging.getLogger(__name__)


def efficiency(params: Params, paths: Layout) -> None:
    """Writes `metrics/efficiency.json`.

    Everything is measured on the CPU in float32, image towers only, the student's batch norm
    folded into its convolutions. Latencies are medians of interleaved runs on this machine; the
    other numbers are the same on every machine. `deployed` has the files of `out/export` beside
    PyTorch.

    Raises:
        KdeovError: Student, teacher or export cannot be loaded, or do not belong together.
    """
    student = student_of(paths, "cpu")
    card = export_of(paths)
    teacher = load_teacher(paths.teacher)
    with cpu_threads(params.efficiency.threads):
        result = {
            **_at_own_size(student, teacher, params.efficiency, paths),
            "reference": _against_reference(student, params.efficiency),
            "threads": params.efficiency.threads,
            "deployed": _deployed(student, card, params, paths),
            "fingerprint": RunRecord.read(paths.student).fingerprint,
        }
    write_checked_json(paths.metrics / "efficiency.json", result)
    logger.info(
        "student: %.1f ms an image; at %d px, ViT-B/32 takes %.1f times as long",
        result["student"]["latency_ms"],
        params.efficiency.reference_size,
        result["reference"]["speedup"],
    )


def _at_own_size(
    student: KDEOVModel, teacher: Teacher, params: EfficiencyParams, paths: Layout
) -> dict[str, Any]:
    """Student and teacher, each at its own input size; a teacher without a tower is None."""
    towers: dict[str, tuple[nn.Module, int]] = {
        "student": (ImageTower(student.student), student.transform.size)
    }
    if isinstance(teacher, TowerTeacher):
        towers["teacher"] = (teacher.visual, teacher.transform.size)
    single = latencies({n: _call(m, s, 1) for n, (m, s) in towers.items()}, params.repeats)
    batch = latencies(
        {n: _call(m, s, params.batch_size) for n, (m, s) in towers.items()},
        max(3, params.repeats // 5),
    )
    measured: dict[str, Any] = {
        name: {
            "parameters": count_parameters(module),
            "macs": count_macs(module, size),
            "image_size": size,
            "latency_ms": single[name],
            "batch_latency_ms_per_image": batch[name] / params.batch_size,
            "weight_bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
        }
        for name, (module, size) in towers.items()
    }
    # a teacher of precomputed embeddings has no tower
    measured.setdefault("teacher", None)
    measured["student"]["file_bytes"] = (paths.student / "student.safetensors").stat().st_size
    return measured


def _against_reference(student: KDEOVModel, params: EfficiencyParams) -> dict[str, Any]:
    """The student against CLIP's ViT-B/32 image tower, both at `reference_size` pixels. The
    reference has random weights, which do not change its speed.
    """
    size = params.reference_size
    clip = import_clip()
    reference = clip.model.VisionTransformer(size, 32, 768, 12, 12, 512).eval()
    module = ImageTower(student.student)
    times = latencies(
        {"student": _call(module, size, 1), "reference": _call(reference, size, 1)}, params.repeats
    )
    return {
        "name": "ViT-B/32",
        "image_size": size,
        "parameters": count_parameters(reference),
        "macs": count_macs(reference, size),
        "student_macs": count_macs(module, size),
        "latency_ms": times["reference"],
        "student_latency_ms": times["student"],
        "speedup": times["reference"] / times["student"],
    }


def _deployed(student: KDEOVModel, card: Card, params: Params, paths: Layout) -> dict[str, Any]:
    """The student's forms, the cost of INT8, and the card of the export that they belong to."""
    weights = paths.student / "student.safetensors"
    return {
        **measure_forms(student, paths.export, card, weights, params.efficiency),
        "int8_cost": int8_cost(params, paths, student, card),
        "card": sha256_file(paths.export / CARD),
    }


def _call(module: nn.Module, size: int, batch: int) -> Callable[[], Tensor]:
    pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return lambda: module(pixels)


@torch.inference_mode()
def latencies(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each call, in milliseconds, over interleaved runs."""
    times = interleaved(calls, repeats)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def count_parameters(module: nn.Module) -> int:
    """Number of weights and biases."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, size: int) -> int:
    """Multiply-accumulates for one image [3, size, size]: half the FLOPs that PyTorch counts in
    convolutions and matrix products.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    # FlopCounterMode does not count fused attention
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            module(torch.zeros(1, 3, size, size))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2
