"""The MLflow tracking target: its address, the time it may take, and the errors it raises."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.errors import ConfigError
from pipeline.config.execution_params import TrackingParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SERVER_SCHEMES = ("http", "https", "databricks")
DRIVER_PACKAGES = {  # of modules whose package has another name
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
DATABASE_TIMEOUT_S = "10"


@dataclass(frozen=True)
class TrackingTarget:
    """A tracking server or database. Holds strings only, so that it can be pickled for Ray.

    Attributes:
        uri: MLflow's tracking URI. It may hold a password; logs and files get `address` instead.
        experiment: Name of the experiment.
        artifacts: Artifact folder of a new experiment in a database, as a `file:` URI; None for
            the server's default.
    """

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, params: TrackingParams, paths: Layout) -> TrackingTarget:
        """The target of a checkout: `MLFLOW_TRACKING_URI`, else `tracking.uri`, else a SQLite
        database below `work/`.

        Raises:
            ConfigError: The URI is a folder, which MLflow no longer supports, or a database
                without an installed driver.
        """
        default = f"sqlite:///{paths.tracking_database}"
        uri = os.environ.get(URI_VARIABLE) or params.uri or default
        if "://" not in uri or uri.startswith("file:"):
            raise ConfigError(
                f"tracking.uri {uri!r} is a folder, which MLflow no longer supports; give "
                "sqlite:///... or http://..., and move old runs with `mlflow migrate-filestore`"
            )
        target = cls(uri, params.experiment, None)
        if target.is_server:
            return target
        if uri != default:
            uri = _with_driver(uri)
            _check_database(uri)
        # MLflow's own default is a folder below the current one
        artifacts = (paths.tracking_database.parent / "artifacts").as_uri()
        return cls(uri, params.experiment, artifacts)

    @property
    def is_server(self) -> bool:
        """Whether the URI is that of an MLflow server, which stores artifacts and has a page."""
        return self.uri.partition(":")[0] in SERVER_SCHEMES

    @property
    def is_file(self) -> bool:
        """Whether the URI is a database file, which other machines cannot write."""
        return self.uri.startswith("sqlite:")

    @property
    def address(self) -> str:
        """The URI without user and password, for logs and files."""
        return without_login(self.uri)

    def client(self) -> MlflowClient:
        """Returns a client; creates the folder of a local database."""
        from mlflow import MlflowClient

        if self.is_file:
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        elif not self.is_server:
            _check_connection(self.uri)
        _silence_loggers()
        return MlflowClient(self.uri)

    def experiment_id(self, client: MlflowClient) -> str:
        """Returns the id of the experiment; creates it if it is missing."""
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return experiment.experiment_id
        try:
            return client.create_experiment(self.experiment, artifact_location=self.artifacts)
        except MlflowException as error:
            # another driver may have created it in the meantime
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return experiment.experiment_id


def live_target(params: Params, paths: Layout) -> TrackingTarget | None:
    """The target for epochs while training runs; None for a cluster and a database file, which
    the cluster cannot write.

    Raises:
        ConfigError: See `TrackingTarget.of`.
    """
    target = TrackingTarget.of(params.tracking, paths)
    if params.cluster.mode == "cluster" and target.is_file:
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


def tracking_errors() -> tuple[type[Exception], ...]:
    """The errors that MLflow raises if its server or database cannot be used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, ImportError)


def one_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters, without a password; the name of
    its class if it has no text.
    """
    text = without_login(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        text += "; check MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return text


def without_login(text: str) -> str:
    """Removes users and passwords from the addresses in a text."""
    return re.sub(r"(?<=://)[^/\s]*@|(?<=[?&])password=[^&\s]*", "", text)


def _with_driver(uri: str) -> str:
    """Names the installed PostgreSQL driver in a URI; SQLAlchemy's default is psycopg2 alone."""
    plain = "postgresql://"
    for driver in ("psycopg", "psycopg2"):
        if uri.startswith(plain) and find_spec(driver):
            return f"postgresql+{driver}://{uri.removeprefix(plain)}"
    return uri


def _check_database(uri: str) -> None:
    """Refuses a database whose driver is not installed, before any work."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    address = without_login(uri)
    try:
        create_engine(uri)
    except ImportError as error:
        package = DRIVER_PACKAGES.get(str(error.name), error.name)
        raise ConfigError(
            f"tracking.uri {address}: this kind of database needs the package {package}; install "
            "it, or give the http:// address of an MLflow server"
        ) from error
    except SQLAlchemyError as error:
        raise ConfigError(
            f"tracking.uri {address}: neither a server nor a database ({one_line(error)}); give "
            "http://HOST:5000, sqlite:///FILE or postgresql://HOST/NAME"
        ) from error


def _check_connection(uri: str) -> None:
    """Raises at once if a database cannot be reached; MLflow would retry for two minutes."""
    from sqlalchemy import create_engine

    os.environ.setdefault("PGCONNECT_TIMEOUT", DATABASE_TIMEOUT_S)
    engine = create_engine(uri)
    engine.connect().close()
    engine.dispose()


def _silence_loggers() -> None:
    """Hides database migrations and retries from the console."""
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
