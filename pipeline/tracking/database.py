"""MLflow's database: its address, its making, its schema, and where it says that files lie.

A SQLite file is made under a temporary name and moved, since MLflow needs seconds for its tables
and cannot go on with a part of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from kdeov.errors import ConfigError
from kdeov.weights.folder import user_path
from pipeline.console import without_login
from pipeline.storage.files import TEMPORARY, exists
from pipeline.tracking.compat import FILE_COLUMNS, make_tables, schema_history
from pipeline.tracking.errors import TrackingError, one_line

if TYPE_CHECKING:
    from sqlalchemy import Connection

DRIVER_PACKAGES = {  # of modules whose package has another name
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
DATABASE_TIMEOUT_S = "10"
LOCK_TIMEOUT_S = 120  # making the tables takes 5 s, publishing up to a minute
ARTIFACTS = "/work/mlflow/artifacts"  # of a checkout; holds no character that a URI escapes


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file, of any name.

    SQLAlchemy takes `%` and `?` in an address for escapes and options. Where a path needs escapes,
    the address names the driver: of an address that begins with `sqlite:///`, MLflow would make
    the folder as it is spelled there, escapes and all.
    """
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{path}"
    if make_url(plain).database == str(path):
        return plain
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string(hide_password=False)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None for another address."""
    from sqlalchemy import make_url

    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    return Path(make_url(uri).database or "")


def named_file(uri: str, home: Path, name: str) -> Path | None:
    """The file that a SQLite address names; None for another address.

    Args:
        uri: The address. `~` is the home folder of the user.
        home: Folder of relative paths.
        name: Where the address is given, for errors.

    Raises:
        ConfigError: It names no file.
    """
    if (file := sqlite_file(uri)) is None:
        return None
    if not file.name or str(file).startswith((":", "file:")):
        raise ConfigError(f"{name} {uri!r} names no file; give sqlite:////FOLDER/FILE")
    file = Path(os.path.normpath(home / user_path(file)))
    if exists(file) and not file.is_file():
        kind = "a folder" if file.is_dir() else "a device"
        raise ConfigError(f"{name} {uri!r}: {file} is {kind}; name a file, or move it away")
    return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock of processes, which ends with its process.

    Raises:
        TrackingError: Another process holds it for `LOCK_TIMEOUT_S`, or the folder has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        reason = f"another process has held {path} for {LOCK_TIMEOUT_S} s"
        raise TrackingError(reason, "wait for it, or end it") from error
    except NotImplementedError as error:
        raise TrackingError(
            f"{path} cannot be locked", "mount its folder with file locks"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_missing(path: Path) -> bool:
    """Whether a SQLite file is still to be made.

    Raises:
        TrackingError: It is a link that leads nowhere, in whose place no other file is made.
    """
    if path.is_symlink() and not path.exists():
        raise TrackingError(
            f"{path} is a link to {path.readlink()}, which is missing",
            "mount its folder, or delete the link",
        )
    return not path.exists() or not path.stat().st_size


def make_file(path: Path, artifacts: str) -> None:
    """Makes a SQLite file with MLflow's tables, unless another process does so first.

    Args:
        path: The file.
        artifacts: Address of the folder of its files.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        if not is_missing(path):
            return
        partial = path.with_name(f"{path.name}{TEMPORARY}")
        for left in path.parent.iterdir():  # by a killed process: the file and its journal
            if left.name.startswith(partial.name):
                left.unlink()
        make_tables(sqlite_uri(partial), artifacts)
        partial.replace(path)


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Lets one process of this machine at a time make the tables of a database server."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    with locked(Path(tempfile.gettempdir()) / f"kdeov-mlflow-{name}.lock"):
        yield


def has_tables(uri: str) -> bool:
    """Whether a database has the tables of the installed MLflow; False where it has none yet.

    Raises:
        TrackingError: It has those of another MLflow, or a part of them.
        SQLAlchemyError: It cannot be read.
    """
    from alembic.migration import MigrationContext
    from sqlalchemy import inspect, text

    with _connection(uri) as connection:
        tables = set(inspect(connection).get_table_names())
        if not tables & {"experiments", "alembic_version"}:
            return False
        version = MigrationContext.configure(connection).get_current_revision()
        is_used = "experiments" in tables and bool(
            connection.scalar(text("SELECT COUNT(*) FROM experiments"))
        )
    history = schema_history()
    if version == history.get_current_head():
        return True
    path = sqlite_file(uri)
    if not is_used:  # MLflow makes its first experiment after the last table
        if path is None:
            return False  # a server undoes what was interrupted
        raise TrackingError(
            "the file is half made, as its first use was interrupted",
            f"delete {path}, which has no run yet",
        )
    if version in (None, *(revision.revision for revision in history.walk_revisions())):
        copy = f"copy {path}" if path else "back it up"
        raise TrackingError(
            f"its tables are those of an older MLflow, {version}",
            f"{copy}, then run `mlflow db upgrade {quote(without_login(uri))}`",
        )
    raise TrackingError(
        f"its tables are those of a newer MLflow, {version}", "install that version of mlflow"
    )


def follow_checkout(uri: str, artifacts: str) -> None:
    """Corrects the addresses of files in a checkout's own database after the checkout was copied
    or moved. Addresses that are in no checkout's `work/mlflow/artifacts` stay.

    Args:
        uri: The database, a file of the checkout.
        artifacts: Address of the checkout's folder of files.
    """
    from sqlalchemy import text

    with _connection(uri) as connection:
        found = connection.scalars(text("SELECT DISTINCT artifact_location FROM experiments"))
        stale = {checkout_folder(location) for location in found} - {None, artifacts}
        for folder in stale:
            for table, column in FILE_COLUMNS:
                connection.execute(
                    text(
                        f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
                        f"WHERE {column} = :old OR substr({column}, 1, :length + 1) = :old || '/'"
                    ),
                    {"old": folder, "new": artifacts, "length": len(folder or "")},
                )
        if stale:
            connection.commit()


def checkout_folder(location: str | None) -> str | None:
    """The part of an address up to a checkout's `work/mlflow/artifacts`; None where it has none."""
    before, found, rest = (location or "").rpartition(ARTIFACTS)
    is_local = before.startswith(("file:", "/"))
    return before + found if found and is_local and rest[:1] in ("", "/") else None


def with_driver(uri: str) -> str:
    """Names the installed PostgreSQL driver in a URI; SQLAlchemy's default is psycopg2 alone."""
    plain = "postgresql://"
    for driver in ("psycopg", "psycopg2"):
        if uri.startswith(plain) and find_spec(driver):
            return f"postgresql+{driver}://{uri.removeprefix(plain)}"
    return uri


def check_database(uri: str, name: str) -> None:
    """Refuses a database whose driver is not installed, before any work.

    Args:
        uri: Its address.
        name: Where the address is given, for errors.

    Raises:
        ConfigError: It is no database, or has no driver.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    address = without_login(uri)
    try:
        create_engine(uri)
    except ImportError as error:
        package = DRIVER_PACKAGES.get(str(error.name), error.name)
        raise ConfigError(
            f"{name} {address}: this kind of database needs the package {package}; install "
            "it, or give the http:// address of an MLflow server"
        ) from error
    except (SQLAlchemyError, ValueError) as error:  # the second for a port that is no number
        raise ConfigError(
            f"{name} {address}: neither a server nor a database ({one_line(error)}); give "
            "http://HOST:5000, sqlite:///FILE or postgresql://HOST/NAME"
        ) from error


def check_connection(uri: str) -> None:
    """Raises at once if a database cannot be reached; MLflow would retry for two minutes."""
    from sqlalchemy import create_engine

    os.environ.setdefault("PGCONNECT_TIMEOUT", DATABASE_TIMEOUT_S)
    engine = create_engine(uri)
    engine.connect().close()
    engine.dispose()


@contextmanager
def _connection(uri: str) -> Iterator[Connection]:
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
