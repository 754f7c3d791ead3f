"""Errors of MLflow: those that it raises, and for each its reason and its cure in one line."""

from __future__ import annotations

import os
import re

from kdeov.errors import StorageError
from pipeline.console import without_login

URI_VARIABLE = "MLFLOW_TRACKING_URI"


class TrackingError(StorageError):
    """MLflow cannot be used, for a reason with a cure of its own.

    Attributes:
        reason: What is wrong.
        cure: What to do.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"MLflow: {reason}; {cure}")
        self.reason, self.cure = reason, cure

    def __reduce__(self) -> tuple[type[TrackingError], tuple[str, str]]:
        return type(self), (self.reason, self.cure)


def tracking_errors() -> tuple[type[Exception], ...]:
    """The errors that MLflow raises if its server or database cannot be used."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (TrackingError, MlflowException, SQLAlchemyError, CommandError, OSError, ImportError)


def one_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters, without a password; the name of
    its class if it has no text.
    """
    text = without_login(next(iter(str(error).splitlines()), type(error).__name__))[:200]
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        text += "; check MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return text


def address_name() -> str:
    """Where MLflow's address is given: the variable wins over the params."""
    return URI_VARIABLE if os.environ.get(URI_VARIABLE) else "tracking.uri"


def no_address(uri: str) -> str:
    """Why a text without a scheme is no address of MLflow, and what to give instead."""
    shown = uri.rpartition("@")[2]  # without a login
    if "@" in uri or re.match(r"[\w.-]+:\d", uri):
        return f"{shown!r} has no scheme; give http://{shown}"
    return (
        f"{shown!r} is a folder, which MLflow no longer supports; give sqlite:///... or "
        "http://..., and move old runs with `mlflow migrate-filestore`"
    )
