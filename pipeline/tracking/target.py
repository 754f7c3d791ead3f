"""The MLflow tracking target: its address, its client, and the time it may take."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from kdeov.errors import ConfigError, StorageError
from pipeline.config.execution_params import TrackingParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import without_login
from pipeline.tracking.compat import forget_folders
from pipeline.tracking.database import (
    ARTIFACTS,
    check_connection,
    check_database,
    checkout_folder,
    first_use,
    follow_checkout,
    has_tables,
    is_missing,
    make_file,
    named_file,
    sqlite_file,
    sqlite_uri,
    with_driver,
)
from pipeline.tracking.errors import (
    URI_VARIABLE,
    TrackingError,
    address_name,
    no_address,
    one_line,
    tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SERVER = re.compile("(https?|databricks)://|databricks$")


@dataclass(frozen=True)
class TrackingTarget:
    """A tracking server or database. Holds strings only, so that it can be pickled for Ray.

    Attributes:
        uri: MLflow's tracking URI. It may hold a password; logs and files get `address` instead.
        experiment: Name of the experiment.
        artifacts: Artifact folder of a new experiment in a database, as a `file:` URI; None for
            the server's default.
        is_own: Whether the database is a file of the checkout, and is copied and moved with it.
    """

    uri: str
    experiment: str
    artifacts: str | None
    is_own: bool = False

    @classmethod
    def of(cls, params: TrackingParams, paths: Layout) -> TrackingTarget:
        """The target of a checkout: `MLFLOW_TRACKING_URI`, else `tracking.uri`, else a SQLite
        database below `work/`.

        Raises:
            ConfigError: It is no address, a folder, or a database in memory or without a driver.
        """
        given, name = (os.environ.get(URI_VARIABLE) or params.uri or "").strip(), address_name()
        uri = given or sqlite_uri(paths.tracking_database)
        target = cls(uri, params.experiment, None)
        if target.is_server:
            return target
        if "://" not in uri or uri.startswith("file:"):
            raise ConfigError(f"{name} {no_address(uri)}")
        check_database(uri := with_driver(uri), name)
        # MLflow's own default is a folder below the current one
        artifacts = paths.tracking_artifacts.as_uri()
        if (file := named_file(uri, paths.home, name)) is None:
            return cls(uri, params.experiment, artifacts)
        if str(beside := file.with_name("artifacts")).endswith(ARTIFACTS):  # of any checkout
            artifacts = beside.as_uri()
        is_own = file.is_relative_to(paths.home)
        return cls(sqlite_uri(file), params.experiment, artifacts, is_own)

    @property
    def is_server(self) -> bool:
        """Whether the URI is that of an MLflow server, which stores artifacts and has a page."""
        return SERVER.match(self.uri) is not None

    @property
    def file(self) -> Path | None:
        """The database file, which other machines cannot write; None for a server."""
        return sqlite_file(self.uri)

    @property
    def address(self) -> str:
        """The URI without user and password, for logs and files."""
        return without_login(self.uri)

    def prepare(self) -> bool:
        """Checks and corrects a database, as `client` does, for MLflow's own server to open.

        Returns:
            Whether it has tables; none are made here.

        Raises:
            StorageError: It cannot be used.
        """
        with self.one_line_errors():
            if self.is_empty():
                return False
            self._correct_folders()
        return True

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """MLflow's errors as one line.

        Raises:
            StorageError: MLflow cannot be used.
        """
        try:
            yield
        except tracking_errors() as error:
            reason, cure = self.explain(error)
            message = f"MLflow at {self.address} cannot be read ({reason}); {cure}"
            raise StorageError(message) from error

    def is_empty(self) -> bool:
        """Whether a database is still to be made, or has no tables yet.

        Raises:
            TrackingError: It is half made, or made by another version of MLflow.
            SQLAlchemyError: It cannot be read.
        """
        if self.file is not None and is_missing(self.file):
            return True
        if self.file is None:
            check_connection(self.uri)
        return not has_tables(self.uri)

    def client(self) -> MlflowClient:
        """Returns a client. Makes a local database where there is none, and corrects where one
        that came with a copy of the checkout says that files lie.

        Raises:
            TrackingError: The database is half made, or made by another version of MLflow.
        """
        from mlflow import MlflowClient

        _silence()
        if self.is_server:
            return MlflowClient(self.uri)
        if self.file is None:
            check_connection(self.uri)
        elif is_missing(self.file):
            make_file(self.file, self.artifacts or self.file.with_name("artifacts").as_uri())
        _make_tables(self.uri)
        self._correct_folders()
        forget_folders()
        return MlflowClient(self.uri)

    def _correct_folders(self) -> None:
        if self.is_own and self.artifacts:
            follow_checkout(self.uri, self.artifacts)

    def experiment_id(self, client: MlflowClient) -> str:
        """Returns the id of the experiment; creates it if it is missing.

        Raises:
            TrackingError: The experiment is deleted.
        """
        from mlflow.exceptions import MlflowException

        if (found := self.find_experiment(client)) is not None:
            return found
        try:
            return client.create_experiment(self.experiment, artifact_location=self.artifacts)
        except MlflowException as error:
            # another driver may have created it in the meantime
            found = self.find_experiment(client)
            if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return found

    def find_experiment(self, client: MlflowClient) -> str | None:
        """Returns the id of the experiment; None if it is missing.

        Raises:
            TrackingError: The experiment is deleted.
        """
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            command = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise TrackingError(
                f"the experiment {self.experiment} is deleted",
                f"run `{URI_VARIABLE}={quote(self.address)} {command}`, or give "
                "tracking.experiment another name",
            )
        return experiment.experiment_id

    def require_own_files(self, location: str) -> None:
        """Refuses to write files into another checkout, where a shared database keeps them.

        Args:
            location: Where the files of a run lie.

        Raises:
            TrackingError: It is the `work/mlflow` of another checkout.
        """
        folder = checkout_folder(location)
        if self.artifacts and folder not in (None, self.artifacts):
            raise TrackingError(
                f"the experiment {self.experiment} keeps its files in another checkout, {folder}",
                "give tracking.experiment another name, or serve the database with "
                "`mlflow server` and give its http:// address as tracking.uri",
            )

    def explain(self, error: Exception) -> tuple[str, str]:
        """What is wrong, and what to do, for an error of `tracking_errors`."""
        if isinstance(error, TrackingError):
            return error.reason, error.cure
        reason = one_line(error)
        if self.file is None:
            return reason, f"start it, or correct {address_name()}"
        if "locked" in reason:
            return reason, f"wait for the process that writes {self.file}, or end it"
        if "not a database" in reason or "malformed" in reason:
            return reason, f"move {self.file} away, or restore a copy"
        return reason, f"free space, or let this user write {self.file}"


@lru_cache
def _make_tables(uri: str) -> None:
    """Checks a database once a process, and lets one process at a time make its tables."""
    from mlflow import MlflowClient

    if not has_tables(uri):
        with first_use(uri):
            MlflowClient(uri)


def live_target(params: Params, paths: Layout) -> TrackingTarget | None:
    """The target for epochs while training runs; None for a cluster and a database file, which
    the cluster cannot write.

    Raises:
        ConfigError: See `TrackingTarget.of`.
    """
    target = TrackingTarget.of(params.tracking, paths)
    if params.cluster.mode == "cluster" and target.file:
        logger.info(
            "MLflow is a file of this checkout, which a cluster cannot write: the report stage "
            "publishes the curves; set tracking.uri to a server to watch epochs"
        )
        return None
    return target


@contextmanager
def request_limits(timeout_s: int, max_retries: int) -> Iterator[None]:
    """Limits how long MLflow's client waits for its server. Its default is minutes.

    Environment variables that are set already take precedence.

    Args:
        timeout_s: Timeout of a request, seconds.
        max_retries: Number of retries of a request.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(max_retries),
    }
    added = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _silence() -> None:
    """Hides database migrations, retries and addresses, which may hold a password."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
