"""The answers of teacher and student about each test image: what `kdeov compare` and
`kdeov ablation` pair, from DVC's cache or from MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdeov.evaluation.answers import answers_to_arrays
from kdeov.evaluation.bootstrap import Statistic
from pipeline.evaluation.shared.embeddings import write_arrays

FILE = "answers.npz"


def write_answers(
    folder: Path, fingerprint: str, size: int, scores: Mapping[str, Mapping[str, Statistic]]
) -> None:
    """Writes `answers.npz`.

    Args:
        folder: Folder of the evaluation.
        fingerprint: Fingerprint of the run.
        size: Number of test images, N.
        scores: Metrics by model and name; none where the data set has none.
    """
    arrays = answers_to_arrays(scores)
    write_arrays(folder / FILE, fingerprint=fingerprint, size=size, **arrays)
