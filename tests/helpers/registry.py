"""Exports in a real registry of MLflow, without the checkouts that made them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.report.publishing.publish_model import publish_model
from pipeline.report.registry.comparison import SCORES_TAG, Score, write_scores
from pipeline.tracking.mlflow_run import find_or_create_run
from pipeline.tracking.registry import register
from pipeline.tracking.target import TrackingTarget
from tests.helpers.results import edit_json

NAME = "scenes"


@dataclass(frozen=True)
class Registry:
    """The registry at a tracking address.

    Attributes:
        target: The address.
    """

    target: TrackingTarget

    @property
    def client(self) -> MlflowClient:
        return self.target.client()

    def publish(
        self, export: Path, scores: Mapping[str, Score] | None = None, name: str = NAME
    ) -> ModelVersion:
        """Registers an export as `kdeov publish` does: a new version that `candidate` names."""
        client = self.client
        experiment = self.target.experiment_id(client)
        run = find_or_create_run(client, experiment, export.name, f"run of {export.name}", {})
        model = publish_model(client, run, export)
        tags = {SCORES_TAG: write_scores(scores or {})}
        return register(client, self.target.uri, name, model, tags)

    def aliases(self, name: str = NAME) -> dict[str, str]:
        """The number of the version that each alias names."""
        aliases = self.client.get_registered_model(name).aliases
        return {alias: str(number) for alias, number in aliases.items()}


def another_export(export: Path, folder: Path, note: str) -> Path:
    """A copy of an export with a card of its own: the same answers, and another model."""
    shutil.copytree(export, folder)
    edit_json(folder / "card.json", lambda values: values["licenses"].update(note=note))
    return folder


def score(value: float, test: str = "1,024 test images", half_width: float = 0.02) -> Score:
    """A metric with a symmetric interval."""
    return Score(value, value - half_width, value + half_width, test)
