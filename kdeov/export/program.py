"""`image.pt2`: the image graph as a program of `torch.export`, for PyTorch, AOTInductor and
ExecuTorch. `torch.export.load(FILE).module()` takes pixels as `image.onnx` does.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kdeov.errors import DataError, first_line
from kdeov.export.graphs import ImageGraph
from kdeov.export.images import Reference, unseen_pixels
from kdeov.export.noise import quietly
from kdeov.export.onnx import pixel_axes
from kdeov.export.parity import MAX_ABS_PROGRAM, Arrays, Parity, Run, require_parity
from kdeov.runtime.card import PROGRAM


def write_program(folder: Path, graph: ImageGraph, reference: Reference) -> Parity:
    """Writes `image.pt2` and compares it with the graph.

    Raises:
        DataError: The network cannot be exported, or the file differs from PyTorch.
    """
    stride = reference.student.backbone.strides[-1]
    pixels = torch.zeros(2, 3, 2 * stride, 3 * stride, dtype=torch.uint8)
    try:
        with torch.no_grad(), quietly(PROGRAM):
            program = torch.export.export(graph, (pixels,), dynamic_shapes=(pixel_axes(stride),))
            for part in program.graph_module.modules():
                for node in getattr(getattr(part, "graph", None), "nodes", ()):
                    node.meta.pop("stack_trace", None)  # holds paths of this machine
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{PROGRAM}: this network cannot be exported ({first_line(error)}); choose another "
            "backbone"
        ) from error
    (folder / PROGRAM).write_bytes(buffer.getvalue())

    # the program is free of sizes from two strides on
    inputs = [{"pixels": x} for x in unseen_pixels(reference) if min(x.shape[2:]) >= 2 * stride]
    # the graph itself is compared with the student through `image.onnx`
    return require_parity(PROGRAM, _run_of(loaded), _run_of(graph), inputs, MAX_ABS_PROGRAM)


def _run_of(module: Callable[[Tensor], Tensor]) -> Run:
    @torch.inference_mode()
    def run(arrays: Arrays) -> Arrays:
        return {"embedding": module(torch.from_numpy(arrays["pixels"])).numpy()}

    return run
