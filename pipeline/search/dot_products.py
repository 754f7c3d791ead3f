"""Dot products of many fp16 rows with a few queries, at the speed of memory.

numpy widens fp16 one number at a time, and no BLAS reads it. onnxruntime, which is always there,
does both with the CPU's vector instructions: a graph of two nodes, `MatMul(Cast(rows), queries)`,
over blocks that stay in the cache of a core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

BLOCK_BYTES = 2 << 20  # of fp16 rows at a time; widened they are twice as large
FEW = 1 << 23  # numbers that numpy widens in 15 ms
SINGLE_ERROR = float(np.finfo(np.float32).eps)
SILENT = 4  # onnxruntime's level `fatal`: what fails is raised as well
# numbers of onnx.proto: element types, and the versions of the format and of its operators
FLOAT, FLOAT16 = 1, 10
IR_VERSION, OPSET, INTEGER_ATTRIBUTE = 8, 17, 2


def dot_products(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Dot products in single precision, in blocks and in threads.

    Args:
        rows: float16 [N, D], C-contiguous; a memory map is read once and not copied.
        queries: float32 [Q, D].

    Returns:
        float32 [N, Q]; see `dot_error` for how exact they are.
    """
    columns = np.ascontiguousarray(np.atleast_2d(queries).astype(np.float32).T)
    if rows.size <= FEW and "onnxruntime" not in sys.modules:  # its import takes longer
        return rows.astype(np.float32) @ columns
    products = np.empty((len(rows), columns.shape[1]), np.float32)

    def multiply(block: slice) -> None:
        (products[block],) = _session().run(None, {"rows": rows[block], "queries": columns})

    blocks = list(_blocks(len(rows), rows.shape[1]))
    if len(blocks) == 1:
        multiply(blocks[0])
    else:
        list(_threads().map(multiply, blocks))
    return products


def dot_error(rows_norm: float, query: np.ndarray) -> float:
    """Bound of the error of one of `dot_products`, for a sum in any order (Higham 2002, 3.1).

    Args:
        rows_norm: Longest of the rows.
        query: float32 [D].
    """
    length = float(np.linalg.norm(query.astype(np.float64)))
    terms = len(query) * SINGLE_ERROR
    return terms / (1 - terms) * rows_norm * length


def exact_products(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products of a few fp16 rows [N, D] with a query [D], summed in double precision and
    rounded once, float32 [N]: equal rows have equal products wherever they lie.
    """
    wide = rows.astype(np.float64) * query.astype(np.float64)
    return wide.sum(axis=1).astype(np.float32)


def _blocks(count: int, dim: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (2 * dim))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "dot-products")


@cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1  # blocks run in threads of their own
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_graph(), options, providers=["CPUExecutionProvider"])


def _graph() -> bytes:
    """The ONNX model; the package `onnx`, which would write it, is no part of the runtime."""
    cast = _node("Cast", ["rows"], "wide", _bytes(5, _bytes(1, b"to") + _number(3, FLOAT)
                 + _number(20, INTEGER_ATTRIBUTE)))  # fmt: skip
    product = _node("MatMul", ["wide", "queries"], "products")
    graph = b"".join(
        [
            *(_bytes(1, node) for node in (cast, product)),
            _bytes(2, b"dot_products"),
            _bytes(11, _matrix("rows", FLOAT16, "n", "d")),
            _bytes(11, _matrix("queries", FLOAT, "d", "q")),
            _bytes(12, _matrix("products", FLOAT, "n", "q")),
        ]
    )
    opset = _bytes(8, _bytes(1, b"") + _number(2, OPSET))
    return _number(1, IR_VERSION) + _bytes(7, graph) + opset


def _node(operator: str, inputs: list[str], output: str, attribute: bytes = b"") -> bytes:
    named = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    return named + _bytes(4, operator.encode()) + attribute


def _matrix(name: str, element: int, *sides: str) -> bytes:
    shape = b"".join(_bytes(1, _bytes(2, side.encode())) for side in sides)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, element) + _bytes(2, shape)))


def _bytes(field: int, content: bytes) -> bytes:
    """A field of a protobuf message with its length."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    digits = b""
    while value > 127:
        digits += bytes([value & 127 | 128])
        value >>= 7
    return digits + bytes([value])
