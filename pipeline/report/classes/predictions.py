"""The predictions of zero-shot classification, an entry an image, as the report reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdeov.errors import DataError
from kdeov.evaluation.calibration import Reliability, reliability
from pipeline.evaluation.shared.embeddings import read_arrays
from pipeline.storage.checked import fix_of

MODELS = ("teacher", "student")
FILE = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """What the models predicted for N images of K classes.

    Attributes:
        names: [K] names of the classes.
        held_out: Numbers of the classes that training had not.
        images: [N] numbers of the images in the test split.
        labels: [N] their classes.
        predicted: By model, `student` and mostly `teacher`, [N] predicted classes.
        confidence: By model, [N] probabilities of these.
        weights: [K, D] zero-shot classifier weights.
    """

    names: list[str]
    held_out: frozenset[int]
    images: np.ndarray
    labels: np.ndarray
    predicted: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    weights: np.ndarray

    @classmethod
    def read(cls, evaluation: Path, fingerprint: str) -> Predictions:
        """Reads what the stage `zero_shot` wrote.

        Args:
            evaluation: The folder of evaluations.
            fingerprint: Of the run.

        Raises:
            DataError: The file is missing, damaged or edited, or of another run or version.
        """
        path = evaluation / "zero_shot" / FILE
        arrays = read_arrays(path, fingerprint)
        try:
            models = [model for model in MODELS if model in arrays]
            return cls(
                names=arrays["names"].tolist(),
                held_out=frozenset(arrays["held_out"].tolist()),
                images=arrays["images"],
                labels=arrays["labels"],
                predicted={model: arrays[model] for model in models},
                confidence={model: arrays[f"{model}_confidence"] for model in models},
                weights=arrays["weights"],
            )
        except KeyError as error:
            raise DataError(f"{path}: has no {error}; {fix_of('zero_shot')}") from error

    @property
    def models(self) -> list[str]:
        """The models that predicted, the teacher first."""
        return [model for model in MODELS if model in self.predicted]

    def right(self, model: str) -> np.ndarray:
        """[N] whether a model's prediction is right."""
        return self.predicted[model] == self.labels

    def reliability(self, model: str) -> Reliability:
        """The reliability of a model's probabilities."""
        return reliability(self.confidence[model], self.right(model))
