"""The model registry of MLflow: versions of students under a name, and aliases that move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdeov.errors import ConfigError, DataError
from pipeline.tracking.download import find_tracking_uri, model_errors, tracking_uri
from pipeline.tracking.target import request_limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

MODELS = "models:/"
CANDIDATE, CHAMPION = "candidate", "champion"
"""Aliases: the version that was published last, and the one that is served."""
OWN_TAG = "kdeov.recipe"
"""Tag of a registered model that `kdeov publish` made."""


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
    return version_address(version)


def version_address(version: ModelVersion) -> str:
    """`models:/NAME/VERSION`."""
    return f"{MODELS}{version.name}/{version.version}"


def register(
    client: MlflowClient, uri: str, name: str, model: LoggedModel, tags: Mapping[str, str]
) -> ModelVersion:
    """Registers a logged model as a version, once, and lets `candidate` name it.

    Each step compares what is there with what it would write, so a killed call is completed by the
    next one.

    Args:
        client: MLflow's client.
        uri: Its tracking URI.
        name: Name of the registered model, which is made where it is missing.
        model: The model, whose files are whole.
        tags: Tags of the version.

    Returns:
        The version.

    Raises:
        ConfigError: The name belongs to something else.
    """
    from mlflow.exceptions import MlflowException

    if (found := find_registered(client, name)) is None:
        try:
            found = client.create_registered_model(name, tags={OWN_TAG: name})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = find_registered(client, name)  # made by another process in the meantime
            if found is None:
                raise
    source = f"{MODELS}{model.model_id}"
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{model.source_run_id}'")
    same = [version for version in versions if version.source == source]
    if same:
        version = min(same, key=lambda one: int(one.version))
    else:
        with tracking_uri(uri):  # where MLflow looks for the source
            version = client.create_model_version(
                name, source, model.source_run_id, dict(tags), model_id=model.model_id
            )
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    if number_of(found, CANDIDATE) != str(version.version):
        client.set_registered_model_alias(name, CANDIDATE, version.version)
    return version


def find_registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model of a name; None if it is missing.

    Raises:
        ConfigError: The name belongs to something else than students of this project.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if OWN_TAG not in found.tags:
        raise ConfigError(
            f"the registered model {name} is not one of `kdeov publish` (it has no tag {OWN_TAG}); "
            "give tracking.model another name"
        )
    return found


def number_of(found: RegisteredModel, alias: str) -> str | None:
    """The number of the version that an alias names; None if it names none."""
    number = found.aliases.get(alias)  # an int in a database, a str from a server
    return None if number is None else str(number)


def version_of(client: MlflowClient, found: RegisteredModel, alias: str) -> ModelVersion | None:
    """The version that an alias names; None if it names none.

    Raises:
        DataError: It names a version that is deleted.
    """
    if (number := number_of(found, alias)) is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(found.name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DataError(
            f"{found.name}@{alias}: version {number} is deleted; give the alias to another one on "
            "MLflow's page"
        ) from error
