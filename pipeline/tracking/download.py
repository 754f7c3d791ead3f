"""Models of MLflow as folders of this machine, for commands that run them."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdeov.errors import ConfigError, DataError, StorageError
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.tracking.errors import one_line, tracking_errors
from pipeline.tracking.target import URI_VARIABLE, TrackingTarget

PROGRESS_VARIABLE = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


def download_model(address: str, uri: str | None = None) -> Path:
    """The files of a model of MLflow. No code and no pickle of them is run.

    Args:
        address: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/MODEL_ID` or
            `runs:/RUN/student`.
        uri: MLflow's tracking URI; None takes that of the checkout in the current folder, or
            `MLFLOW_TRACKING_URI`.

    Returns:
        A folder, which is deleted when the process ends.

    Raises:
        ConfigError: Neither a checkout nor `MLFLOW_TRACKING_URI` says where MLflow is.
        DataError: There is no such model.
        StorageError: MLflow cannot be reached.
    """
    copy = tempfile.TemporaryDirectory(prefix="kdeov-model-")
    atexit.register(copy.cleanup)
    os.environ.setdefault(PROGRESS_VARIABLE, str(sys.stderr.isatty()).lower())
    from mlflow.artifacts import download_artifacts

    where = f"--model {address}" if uri is None else address
    with model_errors(where), tracking_uri(uri or find_tracking_uri(where)):
        return Path(download_artifacts(artifact_uri=address, dst_path=copy.name))


@contextmanager
def model_errors(where: str) -> Iterator[None]:
    """MLflow's errors about a model as one line.

    Args:
        where: The model, for errors.

    Raises:
        DataError: There is no such model.
        StorageError: MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        kind = DataError if missing else StorageError
        fix = "check the name" if missing else "start the server, or correct the address"
        raise kind(f"{where}: {one_line(error)}; {fix}") from error
    except tracking_errors() as error:
        raise StorageError(f"{where}: {one_line(error)}") from error


@contextmanager
def tracking_uri(uri: str) -> Iterator[None]:
    """Sets MLflow's tracking URI, which alone counts where MLflow looks for `models:/MODEL_ID`."""
    import mlflow

    before = os.environ.get(URI_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def find_tracking_uri(where: str) -> str:
    """MLflow's tracking URI: that of the checkout in the current folder, else
    `MLFLOW_TRACKING_URI`.

    Args:
        where: The model that is looked for, for errors.

    Raises:
        ConfigError: Neither says where MLflow is.
        DataError: The database has no models yet.
    """
    layout = Layout.here()
    if layout.params.is_file():
        target = TrackingTarget.of(load_params(layout.params).tracking, layout)
        if not target.is_server and target.is_empty():
            raise DataError(
                f"{where}: MLflow at {target.address} has no models yet; run "
                f"`dvc repro`, or set {URI_VARIABLE}"
            )
        target.client()  # makes a moved database right
        return target.uri
    if uri := os.environ.get(URI_VARIABLE):
        return uri
    raise ConfigError(
        f"{where}: no params.yaml here says where MLflow is; run in the checkout, or set "
        f"{URI_VARIABLE}"
    )
