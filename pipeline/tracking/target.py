"""Where MLflow is: its address, how long it may keep anybody waiting, and what it raises."""

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

from kdeov.errors import KdeovError
from pipeline.config.execution_params import TrackingParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

ADDRESS = "MLFLOW_TRACKING_URI"
SERVERS = ("http", "https", "databricks")
PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}  # named otherwise than their module
CONNECT_S = "10"  # after which a database does not answer


@dataclass(frozen=True)
class TrackingTarget:
    """Where runs go; plain strings, so that it can be sent to Ray's controller.

    Attributes:
        uri: MLflow's tracking address; may hold a password, so it is never shown: see `address`.
        experiment: Name of the experiment.
        artifacts: Where a new experiment in a database keeps its files; None leaves it to the
            server.
    """

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, params: TrackingParams, layout: Layout) -> TrackingTarget:
        """`MLFLOW_TRACKING_URI`, else `tracking.uri`, else a database under `work/`.

        Raises:
            KdeovError: A folder of files, which MLflow no longer takes, or a database that nothing
                here can speak to.
        """
        default = f"sqlite:///{layout.tracking_database}"
        uri = os.environ.get(ADDRESS) or params.uri or default
        if "://" not in uri or uri.startswith("file:"):
            raise KdeovError(
                f"tracking.uri {uri!r} is a folder, which MLflow no longer takes; "
                "give sqlite:///... or http://..., and move old runs with `mlflow "
                "migrate-filestore`"
            )
        target = cls(uri, params.experiment, None)
        if target.is_server:
            return target
        if uri != default:
            uri = _with_driver(uri)
            _check_database(uri)
        # a database keeps no files; MLflow's own default is a folder where one happens to be
        artifacts = (layout.tracking_database.parent / "artifacts").as_uri()
        return cls(uri, params.experiment, artifacts)

    @property
    def is_server(self) -> bool:
        """Whether a server of MLflow is there, which keeps files and shows pages too."""
        return self.uri.partition(":")[0] in SERVERS

    @property
    def is_file(self) -> bool:
        """Whether it is a file of this machine, which no other one can write."""
        return self.uri.startswith("sqlite:")

    @property
    def address(self) -> str:
        """For people and files: without user and password."""
        return without_login(self.uri)

    def client(self) -> MlflowClient:
        """A client; makes the folder of a local database."""
        from mlflow import MlflowClient

        if self.is_file:
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        elif not self.is_server:
            _knock(self.uri)
        _quiet()
        return MlflowClient(self.uri)

    def experiment_id(self, client: MlflowClient) -> str:
        """The experiment, made where it is missing."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        try:
            return client.create_experiment(self.experiment, artifact_location=self.artifacts)
        except MlflowException as error:
            # another driver may have made it just now
            found = client.get_experiment_by_name(self.experiment)
            if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return found.experiment_id


def live_target(params: Params, layout: Layout) -> TrackingTarget | None:
    """Where epochs are told while they happen; nowhere from a cluster to a file of the checkout."""
    target = TrackingTarget.of(params.tracking, layout)
    if params.cluster.mode == "cluster" and target.is_file:
        logger.info(
            "MLflow is a file of the checkout, which a cluster cannot write: its curves come with "
            "the report; to watch epochs, give tracking.uri a server"
        )
        return None
    return target


@contextmanager
def patience(seconds: int, retries: int) -> Iterator[None]:
    """Bounds how long MLflow's client waits for its server, unless the environment says; left
    alone, it would try a dead one for minutes.

    Args:
        seconds: For an answer.
        retries: How often it then asks again.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def tracking_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its server or database cannot be used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, ImportError)


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing; no password."""
    text = without_login(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        text += "; are MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN, right?"
    return text


def without_login(text: str) -> str:
    """A text whose addresses name no user and no password."""
    return re.sub(r"(?<=://)[^/\s]*@|(?<=[?&])password=[^&\s]*", "", text)


def _with_driver(uri: str) -> str:
    """Names the driver of PostgreSQL that is there: left alone, SQLAlchemy asks for one of them."""
    plain = "postgresql://"
    for driver in ("psycopg", "psycopg2"):
        if uri.startswith(plain) and find_spec(driver):
            return f"postgresql+{driver}://{uri.removeprefix(plain)}"
    return uri


def _check_database(uri: str) -> None:
    """Refuses before any work a database that lacks its driver."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    address = without_login(uri)
    try:
        create_engine(uri)
    except ImportError as error:
        package = PACKAGES.get(str(error.name), error.name)
        raise KdeovError(
            f"tracking.uri {address}: this kind of database needs the package {package}; install "
            "it, or give the http:// address of an MLflow server"
        ) from error
    except SQLAlchemyError as error:
        raise KdeovError(
            f"tracking.uri {address}: neither a server nor a database ({one_line(error)}); give "
            "http://HOST:5000, sqlite:///FILE or postgresql://HOST/NAME"
        ) from error


def _knock(uri: str) -> None:
    """Fails at once where a database is away: MLflow would try again for two minutes."""
    from sqlalchemy import create_engine

    os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_S)
    engine = create_engine(uri)
    engine.connect().close()
    engine.dispose()


def _quiet() -> None:
    """Database migrations and retries are of no interest to the person at the console."""
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
