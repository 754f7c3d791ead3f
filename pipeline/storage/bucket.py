"""What `Storage` does over a network: tried again while the network fails, and told in one line
where a person has to mend something.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kdeov.errors import KdeovError

logger = logging.getLogger(__name__)

T = TypeVar("T")
PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}  # and what fsspec needs for each
PATIENCE_S = 120.0  # how long a network that fails is tried again
PART = 16 << 20  # bytes of a large upload at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 4.0
# fsspec's clients answer with errors of several libraries: faults that another try may not meet
BUSY = {
    errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
NETWORK = {
    "HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError",
    "IncompleteRead", "IncompleteReadError", "ResponseParserError", "TimeoutError",
}  # fmt: skip
CREDENTIALS = {"PermissionError", "NoCredentialsError", "PartialCredentialsError", "TokenError"}


@dataclass(frozen=True)
class Bucket:
    """Objects below an address such as `s3://BUCKET/PREFIX`.

    What fsspec knows of it is looked up for each action, from a cache that it keeps for each
    process: so it may be used in a process that was forked.

    Attributes:
        address: Without a slash at its end.
        patience_s: How long a network that fails is tried again.
    """

    address: str
    patience_s: float = PATIENCE_S

    def try_to(self, what: str, name: str, action: Callable[[Any, str], T]) -> T:
        """Acts on fsspec's file system, again and again while the network fails.

        Args:
            what: `read` or `written`, for messages.
            name: Below the address.
            action: Gets the file system and the full path in it.

        Raises:
            FileNotFoundError: The object is not there.
            KdeovError: The bucket is not there, refuses, or cannot be reached for so long.
        """
        pauses, end = _pauses(), None
        while True:
            try:
                filesystem, root = self.filesystem(_s3_options() if self._protocol == "s3" else {})
                filesystem.retries = 1  # each fault comes here, is told, and patience is ours
                return action(filesystem, f"{root}/{name}".rstrip("/"))
            except KdeovError:
                raise
            except Exception as error:
                missing = isinstance(error, FileNotFoundError) and not _lacks_bucket(error)
                if missing and what != "written":
                    raise
                end = end or time.monotonic() + self.patience_s
                pause = next(pauses)
                if not _may_pass(error) or time.monotonic() + pause > end:
                    raise KdeovError(
                        f"{self.address}/{name} cannot be {what} ({_reason(error)}); "
                        f"{_advice(error)}"
                    ) from error
                logger.warning("%s/%s: %s; trying again", self.address, name, type(error).__name__)
                time.sleep(pause)

    def read(self, name: str) -> bytes:
        """All bytes of an object, by one request."""
        return self.try_to("read", name, lambda fs, path: fs.cat_file(path))

    def write(self, name: str, data: bytes) -> None:
        """Writes an object."""
        self.try_to("written", name, lambda fs, path: fs.pipe_file(path, data))

    def upload(self, path: str, name: str) -> None:
        """Writes an object from a file, a large one in parts."""
        options = {"chunksize": PART} if self._protocol == "s3" else {}
        self.try_to("written", name, lambda fs, there: fs.put_file(path, there, **options))

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None where it is not there."""
        try:
            found = self.try_to("read", name, lambda fs, path: fs.info(path))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def names(self, prefix: str) -> list[str]:
        """What lies directly below a prefix."""

        def listed(fs: Any, path: str) -> list[str]:
            above = f"{path}/"  # itself an object in some buckets
            found = (entry["name"].rstrip("/") for entry in fs.ls(path, detail=True, refresh=True))
            return [name.removeprefix(above) for name in found if name.startswith(above)]

        try:
            return self.try_to("read", prefix, listed)
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Deletes an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.try_to("deleted", name, lambda fs, path: fs.rm_file(path))

    def filesystem(self, options: dict[str, Any]) -> tuple[Any, str]:
        """fsspec's file system, with options of its own, and the path of the address in it.

        Raises:
            KdeovError: What it needs is not installed.
        """
        import fsspec

        try:
            filesystem, root = fsspec.core.url_to_fs(
                self.address, use_listings_cache=False, **options
            )
        except ImportError as error:
            raise KdeovError(
                f"{self.address}: needs {PROTOCOLS[self._protocol]}; install it on every machine"
                + (" (`pip install kdeov[s3]`)" if self._protocol == "s3" else "")
            ) from error
        return filesystem, root.rstrip("/")

    @property
    def _protocol(self) -> str:
        return self.address.partition("://")[0]


def _s3_options() -> dict[str, Any]:
    # credentials are botocore's own business: the environment, its files, the machine's role
    return {
        # told apart by its address, or fsspec's cache would go on with one that has changed
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "config_kwargs": {
            "retries": {"max_attempts": 0}, "connect_timeout": 5, "read_timeout": 30
        },
        "max_concurrency": 1,  # one part of a file is in memory, and small reads are one request
    }  # fmt: skip


class RemoteFile(io.RawIOBase):
    """An object, read by ranges; to be buffered, as each read is a request. Of what is read in
    sequence, the next range is fetched meanwhile.

    Args:
        bucket: Where it is.
        name: Its name.
        size: Its bytes.
    """

    def __init__(self, bucket: Bucket, name: str, size: int) -> None:
        self._bucket, self._name, self._size = bucket, name, size
        self._place, self._read_to = 0, -1
        self._ahead: tuple[int, Future[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Python's own would ask for 8 KB at a time."""
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        start = self._place
        if start >= self._size:
            return b""
        if self._ahead is not None and self._ahead[0] == start:
            data = self._ahead[1].result()[:size]
        else:
            data = self._fetch(start, size)
        in_sequence = start == self._read_to
        self._place = self._read_to = start + len(data)
        self._ahead = None
        if in_sequence and self._place < self._size:
            self._ahead = (self._place, _meanwhile(partial(self._fetch, self._place, size)))
        return data

    def _fetch(self, start: int, size: int) -> bytes:
        stop = min(self._size, start + size)
        return self._bucket.try_to(
            "read", self._name, lambda fs, path: fs.cat_file(path, start=start, end=stop)
        )


def _meanwhile(action: Callable[[], T]) -> Future[T]:
    """Starts an action in a thread, for which a process that ends does not wait."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001 - it is told to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _kinds(error: BaseException) -> set[str]:
    """Names of what an error is: its library need not be imported to ask."""
    return {kind.__name__ for kind in type(error).__mro__}


def _lacks_bucket(error: BaseException) -> bool:
    return "bucket does not exist" in str(error)


def _may_pass(error: BaseException) -> bool:
    """Whether a fault is one of the network or of a busy server."""
    kinds = _kinds(error)
    return bool(kinds & NETWORK) or (isinstance(error, OSError) and error.errno in BUSY)


def _reason(error: BaseException) -> str:
    """The first line of an error, without what may be secret in an address."""
    line = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return re.sub(r"://[^/@\s]*@", "://", line)[:200]


def _advice(error: BaseException) -> str:
    if _lacks_bucket(error):
        return "make the bucket, or correct the address in params.yaml"
    if _kinds(error) & CREDENTIALS:
        return (
            "give credentials that may do so in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY) of every machine"
        )
    if _may_pass(error):
        return "see whether the server is up, and check the address (AWS_ENDPOINT_URL)"
    return "check the address in params.yaml"
