"""ONNX Runtime's static quantization: ranges of activations from images, then a quantized model.

Activations are 8-bit unsigned and weights 7-bit signed, per channel: signed activations take twice
the time on x86, and products of 8-bit weights saturate there where a processor has no VNNI.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import DataError, first_line
from kdeov.export.noise import quietly
from kdeov.export.onnx import without_traces
from kdeov.runtime.card import INT8

MATRIX_OPERATORS = ("Conv", "Gemm", "MatMul")
# quantized too, they save the conversions between two convolutions: a quarter of the time
CHEAP_OPERATORS = ("Mul", "Sigmoid", "Add", "Concat", "MaxPool", "Split", "Relu", "Clip")
BATCH = 8  # images whose activations are in memory at once
PERCENTILE = 99.999  # of the activations of a tensor that lie within its range


class Quantizer:
    """A model whose ranges are known, to be quantized in several ways.

    Args:
        model: Serialized, in float32, with the input `pixels`.
        folder: For files of work.
        images: uint8 [N, 3, S, S].

    Raises:
        DataError: ONNX Runtime cannot quantize the model.
    """

    def __init__(self, model: bytes, folder: Path, images: np.ndarray) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process

        self._prepared, self._ranges = folder / "prepared.onnx", folder / "ranges.json"
        plain = folder / "plain.onnx"
        plain.write_bytes(model)
        with _quantizing():
            # the symbolic inference of shapes fails on free sizes; ONNX's own is enough
            quant_pre_process(str(plain), str(self._prepared), skip_symbolic_shape=True)
            self._write_ranges(folder, images)
        graph = onnx.load(self._prepared).graph
        weights = {tensor.name for tensor in graph.initializer}
        self.layers: dict[str, str] = {}
        for node in graph.node:
            if node.op_type in MATRIX_OPERATORS:
                held = [name for name in node.input if name in weights]
                self.layers[node.name] = held[0].removesuffix(".weight") if held else node.name

    def quantized(
        self, operators: Sequence[str], skip: Sequence[str] = (), only: Sequence[str] = ()
    ) -> bytes:
        """Quantizes.

        Args:
            operators: Kinds of nodes.
            skip: Nodes that stay in float32.
            only: Nodes that do not; empty quantizes all others.

        Returns:
            A serialized model; equal arguments give equal bytes.

        Raises:
            DataError: ONNX Runtime cannot quantize the model.
        """
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        path = self._prepared.with_name("quantized.onnx")
        with _quantizing():
            quantize_static(
                str(self._prepared),
                str(path),
                None,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(operators),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(skip),
                calibrate_method=CalibrationMethod.Percentile,
                calibration_cache_path=str(self._ranges),
            )
            model = onnx.load(path)
        without_traces(model)
        return model.SerializeToString(deterministic=True)

    def _write_ranges(self, folder: Path, images: np.ndarray) -> None:
        from onnxruntime.quantization import CalibrationMethod, create_calibrator
        from onnxruntime.quantization.calibrate import save_tensors_data

        calibrator = create_calibrator(
            self._prepared,
            [*MATRIX_OPERATORS, *CHEAP_OPERATORS],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"symmetric": False, "num_bins": 2048, "percentile": PERCENTILE},
        )
        for start in range(0, len(images), BATCH):
            calibrator.collect_data(_Batch(images[start : start + BATCH]))
        save_tensors_data(calibrator.compute_data(), self._ranges)


@contextmanager
def quantizer_of(model: bytes, images: np.ndarray) -> Iterator[Quantizer]:
    """A `Quantizer` with a folder of work that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="kdeov-int8-") as folder:
        yield Quantizer(model, Path(folder), images)


class _Batch:
    """One batch, as ONNX Runtime reads images."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._left: list[dict[str, np.ndarray]] = [{"pixels": pixels}]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None


@contextmanager
def _quantizing() -> Iterator[None]:
    """Turns the errors of ONNX Runtime's tools, which are of any kind, into one line."""
    try:
        with quietly(INT8):
            yield
    except Exception as error:
        raise DataError(
            f"{INT8}: ONNX Runtime cannot quantize this network ({first_line(error)}); export "
            "without calibration images (export.calibration_images: 0), or choose another backbone"
        ) from error
