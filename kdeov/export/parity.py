"""How far the outputs of an exported file are from PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kdeov.errors import DataError

MIN_COSINE = 0.9999
MAX_ABS = 1e-4  # of an ONNX model in float32
MAX_ABS_PROGRAM = 1e-5  # of a PyTorch program

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Parity:
    """The worst figures over all inputs and outputs that were compared.

    Attributes:
        cosine: Lowest cosine of a row (axis 1) with the expected one.
        max_abs: Largest difference, as a share of the largest expected value of the output, or of 1
            where all are smaller.
    """

    cosine: float = 1.0
    max_abs: float = 0.0

    def merged(self, other: Parity) -> Parity:
        """The worse of two figures each."""
        return Parity(min(self.cosine, other.cosine), max(self.max_abs, other.max_abs))

    @property
    def rounded(self) -> dict[str, float]:
        """The figures as a card holds them; the last digits depend on the processor."""
        return {"cosine": round(self.cosine, 6), "max_abs": float(f"{self.max_abs:.0e}")}


def compare(found: Arrays, expected: Arrays) -> Parity:
    """Compares outputs of equal names; their rows lie along axis 1."""
    worst = Parity()
    for name, values in expected.items():
        other = found[name]
        if other.shape != values.shape or not np.isfinite(other).all():
            return Parity(cosine=-1.0, max_abs=float("inf"))
        scale = max(1.0, float(np.abs(values).max()))
        worst = worst.merged(
            Parity(_lowest_cosine(other, values), float(np.abs(other - values).max()) / scale)
        )
    return worst


def require_parity(
    name: str,
    run: Run,
    expected: Run,
    inputs: Iterable[Arrays],
    max_abs: float | None = MAX_ABS,
) -> Parity:
    """Runs an exported file and PyTorch on the same inputs.

    Args:
        name: The file, for errors.
        run: Its outputs, by name.
        expected: PyTorch's outputs, by name.
        inputs: Inputs by name, of sizes that the export did not see.
        max_abs: See `Parity`; None compares cosines alone.

    Raises:
        DataError: An output is too far from PyTorch's.
    """
    worst = Parity()
    for arrays in inputs:
        parity = compare(run(arrays), expected(arrays))
        worst = worst.merged(parity)
        too_far = max_abs is not None and parity.max_abs > max_abs
        if parity.cosine < MIN_COSINE or too_far:
            shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in arrays.items())
            raise DataError(
                f"{name}: differs from PyTorch at {shapes}: cosine {parity.cosine:.6f} (at least "
                f"{MIN_COSINE}), difference {parity.max_abs:.1e} (at most {max_abs}); install the "
                "versions of requirements.lock and export again"
            )
    return worst


def _lowest_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Lowest cosine of the rows [N, D] of two arrays [N, D, ...]; 1 where both are zero."""
    rows = [values.reshape(len(values), -1).astype(np.float64) for values in (found, expected)]
    dots = (rows[0] * rows[1]).sum(axis=1)
    norms = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    return float(np.where(norms > 0, dots / np.where(norms > 0, norms, 1), 1).min())
