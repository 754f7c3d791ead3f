"""Modules as ONNX models: whole in one file, with free sizes, without names of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.export.noise import quietly

OPSET = 18  # ONNX Runtime's static quantization refuses 21, its CUDA provider lacks Resize 19
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Axes = Mapping[int, Any]
"""Number of an axis to its `torch.export.Dim`, or a multiple of one."""


def require_packages() -> None:
    """Checks that the packages of an export are installed.

    Raises:
        ConfigError: One is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an export needs {', '.join(missing)}: pip install 'kdeov[train]' installs them"
        )


def pixel_axes(stride: int) -> dict[int, Any]:
    """The free axes of pixels [B, 3, H, W], whose sides are multiples of a stride."""
    height, width = (torch.export.Dim(name, min=2) for name in ("h", "w"))
    batch = torch.export.Dim("b", min=1)
    return {0: batch, 2: stride * height, 3: stride * width}


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Sequence[Axes],
    name: str,
) -> bytes:
    """Exports a module.

    Args:
        module: In evaluation mode, on the CPU.
        inputs: Examples by the names of the module's arguments, in order.
        outputs: Names of the outputs.
        axes: The free axes of each input.
        name: The file, for errors and messages.

    Returns:
        A serialized model; equal modules give equal bytes.

    Raises:
        DataError: The module cannot be exported.
    """
    try:
        with torch.no_grad(), quietly(name):
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple(dict(entry) for entry in axes),
                verbose=False,
            )
            model = program.model_proto  # type: ignore[union-attr]
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"{name}: this network cannot be exported ({first_line(_cause(error))}); choose "
            "another backbone"
        ) from error
    without_traces(model)
    return model.SerializeToString(deterministic=True)


def without_traces(model: Any) -> None:
    """Removes documentation and metadata from an `onnx.ModelProto`, in place: they hold paths of
    this machine.
    """
    graph = model.graph
    holders = [
        model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
        *graph.initializer,
    ]  # fmt: skip
    for function in model.functions:
        holders += [function, *function.node, *function.value_info]
    for holder in holders:
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")


def part_of(model: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The nodes of a serialized model that lie between some of its inputs and outputs."""
    import onnx

    part = onnx.utils.Extractor(onnx.load_from_string(model)).extract_model(
        list(inputs), list(outputs)
    )
    without_traces(part)
    return part.SerializeToString(deterministic=True)


class Session:
    """An ONNX model to run on one thread of the CPU.

    Args:
        model: A serialized model.
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # equal results and times, whatever else runs
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.outputs: list[str] = [entry.name for entry in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of inputs by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(inputs)), strict=True))


def _cause(error: BaseException) -> BaseException:
    """The first error of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
