"""The model registry of MLflow: versions of models under a name, and aliases that move."""

from __future__ import annotations

from pipeline.tracking.download import find_tracking_uri, model_errors
from pipeline.tracking.target import request_limits

MODELS = "models:/"
CANDIDATE, CHAMPION = "candidate", "champion"
"""Aliases: the version that was published last, and the one that is served."""


def resolve(address: str) -> str:
    """The version that an alias names now; a server asks every few seconds.

    Args:
        address: `models:/NAME@ALIAS`, at the tracking address that `download_model` finds.

    Returns:
        `models:/NAME/VERSION`; any other address as it is.

    Raises:
        ConfigError: Neither a checkout nor `MLFLOW_TRACKING_URI` says where MLflow is.
        DataError: There is no such model or alias.
        StorageError: MLflow cannot be reached.
    """
    name, at, alias = address.removeprefix(MODELS).rpartition("@")
    if not (address.startswith(MODELS) and at and name and alias):
        return address
    from mlflow import MlflowClient

    with model_errors(address), request_limits(timeout_s=10, max_retries=1):
        client = MlflowClient(find_tracking_uri(address))
        version = client.get_model_version_by_alias(name, alias)
    return f"{MODELS}{name}/{version.version}"
