"""Errors of a bucket: which are retried, and what the others advise."""

from __future__ import annotations

import errno
import functools
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from kdeov.errors import KdeovError, StorageError
from pipeline.console import without_login

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 120.0  # for how long a failing network is retried
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 4.0
# errors of a network or a busy server, as s3fs, gcsfs and adlfs raise them
RETRIED_ERRNO = {
    errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
RETRIED = (
    "botocore.exceptions.HTTPClientError", "botocore.exceptions.ConnectionError",
    "botocore.exceptions.IncompleteReadError", "botocore.parsers.ResponseParserError",
    "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "http.client.IncompleteRead",
    "requests.exceptions.ConnectionError", "requests.exceptions.Timeout",
    "asyncio.IncompleteReadError", "asyncio.TimeoutError",
)  # fmt: skip
CREDENTIALS = (
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
    "botocore.exceptions.TokenRetrievalError",
    "botocore.exceptions.UnauthorizedSSOTokenError",
)


def retry(action: Callable[[], T], where: str, verb: str, patience_s: float) -> T:
    """Calls `action`, again and again while the network fails.

    Patience counts from the first error. `tenacity.stop_after_delay` counts from the start of the
    first call instead, so an upload of ten minutes that fails once would never be retried.

    Args:
        action: One or a few requests.
        where: The address of the object, for messages.
        verb: `read`, `written` or `deleted`, for messages.
        patience_s: How long after its first error `action` is given up.

    Raises:
        FileNotFoundError: The object is not there.
        FileExistsError: The object is there and must not be.
        StorageError: The bucket does not exist, refuses, or cannot be reached.
    """
    pauses, end = _pauses(), None
    while True:
        try:
            return action()
        except (KdeovError, FileExistsError):
            raise
        except Exception as error:
            missing = isinstance(error, FileNotFoundError) and not _lacks_bucket(error)
            if missing and verb != "written":
                raise
            end = end or time.monotonic() + patience_s
            pause = next(pauses)
            if not _is_retried(error) or time.monotonic() + pause > end:
                raise StorageError(
                    f"{where} cannot be {verb} ({_reason(error)}); {_advice(error)}"
                ) from error
            logger.warning("%s: %s; trying again", where, type(error).__name__)
            time.sleep(pause)


def answer_of(error: OSError) -> tuple[int | None, str | None]:
    """HTTP status and code of the answer behind an error of s3fs; None where there is none."""
    response = getattr(error.__cause__, "response", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status, response.get("Error", {}).get("Code")


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


@functools.cache
def _types(names: tuple[str, ...]) -> tuple[type[BaseException], ...]:
    """Exception types by name, of the libraries that are installed."""
    found = []
    for name in names:
        module, _, kind = name.rpartition(".")
        try:
            found.append(getattr(importlib.import_module(module), kind))
        except ImportError:
            continue
    return tuple(found)


def _is_retried(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError, *_types(RETRIED))) or (
        isinstance(error, OSError) and error.errno in RETRIED_ERRNO
    )


def _lacks_bucket(error: BaseException) -> bool:
    return "bucket does not exist" in str(error)


def _reason(error: BaseException) -> str:
    """The first line of an error, without the login that an address may hold."""
    line = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return without_login(line)[:200]


def _advice(error: BaseException) -> str:
    if _lacks_bucket(error):
        return "make the bucket, or correct the address in params.yaml"
    if isinstance(error, (PermissionError, *_types(CREDENTIALS))):
        return (
            "set credentials with that permission in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY) of every machine"
        )
    if _is_retried(error):
        return "see whether the server is up, and check the address (AWS_ENDPOINT_URL)"
    return "check the address in params.yaml"
