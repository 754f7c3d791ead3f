"""Files by address: a folder that machines share, or a bucket (`s3://bucket/prefix`, by fsspec).

A file is there whole or not at all. What the network does is tried again for a while; what a person
has to mend is told at once, in one line.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from kdeov.errors import KdeovError
from pipeline.files import TEMPORARY, disk_errors, writing

logger = logging.getLogger(__name__)

T = TypeVar("T")
PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}  # and what fsspec needs for each
PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
BLOCK = 4 << 20  # bytes of a request while reading


def check_address(address: str) -> str:
    """An address as `Storage` takes it; folders become absolute.

    Raises:
        KdeovError: It names a protocol that is not one of `PROTOCOLS`.
    """
    protocol, separator, rest = address.partition("://")
    if not separator:
        return str(Path(address).expanduser().absolute())
    if protocol not in PROTOCOLS or not rest.strip("/"):
        raise KdeovError(
            f"storage {address!r} is neither a folder nor s3://BUCKET/PREFIX (also "
            f"{', '.join(f'{name}://' for name in list(PROTOCOLS)[1:])})"
        )
    return address.rstrip("/")


@dataclass(frozen=True)
class Storage:
    """Files below one address; names are relative, with `/`. Plain, so that it can be sent.

    Attributes:
        address: A folder, or a bucket with a prefix.
        patience_s: How long a network that fails is tried again.
    """

    address: str
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", check_address(self.address))

    def __truediv__(self, name: str) -> Storage:
        """What lies below a name."""
        return Storage(f"{self.address}/{name}", self.patience_s)

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return None if "://" in self.address else Path(self.address)

    def where(self, name: str) -> str:
        """The full address of a file, for people."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: It is not there.
            KdeovError: The storage cannot be read.
        """
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        return self._try("read", name, lambda fs, path: fs.cat_file(path))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, replacing one of its name.

        Raises:
            KdeovError: The storage cannot be written.
        """
        if self.folder is not None:
            with writing(self.folder / name) as file:
                file.write(data)
        else:
            self._try("written", name, lambda fs, path: fs.pipe_file(path, data))

    def upload(self, path: Path, name: str) -> None:
        """Copies a local file to the storage."""
        if self.folder is not None:
            with writing(self.folder / name) as file, open(path, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
        else:
            self._try("written", name, lambda fs, there: fs.put_file(str(path), there))

    def download(self, name: str, path: Path) -> None:
        """Copies a file of the storage to a local one, which is there whole or not at all.

        Raises:
            FileNotFoundError: It is not in the storage.
            KdeovError: The storage cannot be read, or the disk cannot be written.
        """
        if self.folder is not None:
            with open(self.folder / name, "rb") as source, writing(path) as file:
                shutil.copyfileobj(source, file, 1 << 20)
            return
        partial = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._try("read", name, lambda fs, there: fs.get_file(there, str(partial)))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, name: str) -> IO[bytes]:
        """A file to read from, with `seek`; of a bucket, no more than some blocks are in memory.

        Raises:
            FileNotFoundError: It is not there.
            KdeovError: The storage cannot be read (also when reading from it).
        """
        if self.folder is not None:
            return open(self.folder / name, "rb")
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self.where(name))
        return io.BufferedReader(_Remote(self, name, size), BLOCK)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where it is not there."""
        try:
            if self.folder is not None:
                return (self.folder / name).stat().st_size
            return int(self._try("read", name, lambda fs, path: fs.info(path))["size"])
        except FileNotFoundError:
            return None

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files directly below a folder of the storage, sorted; none where it is
        absent. Unfinished ones are left out.
        """
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of each of those files, by its name."""
        try:
            if self.folder is not None:
                found = {}
                for path in list((self.folder / prefix).iterdir()):
                    with contextlib.suppress(FileNotFoundError):  # deleted since
                        found[path.name] = path.stat().st_size
            else:

                def listed(fs: Any, path: str) -> dict[str, int]:
                    fs.invalidate_cache()
                    entries = fs.ls(path, detail=True)
                    return {
                        e["name"].rstrip("/").rpartition("/")[2]: e["size"] or 0 for e in entries
                    }

                found = self._try("read", prefix, listed)
        except FileNotFoundError:
            return {}
        return {name: size for name, size in found.items() if name and not name.endswith(TEMPORARY)}

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._try("written", name, lambda fs, path: fs.rm_file(path))

    def _try(self, what: str, name: str, action: Callable[[Any, str], T]) -> T:
        """An action on the file system of a bucket, tried again while the network fails."""
        end = time.monotonic() + self.patience_s
        pauses = _pauses()
        while True:
            try:
                filesystem, root = self._filesystem()
                return action(filesystem, f"{root}/{name}".rstrip("/"))
            except FileNotFoundError:
                raise
            except Exception as error:
                pause = next(pauses)
                if not _may_pass(error) or time.monotonic() + pause > end:
                    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    raise KdeovError(
                        f"{self.where(name)} cannot be {what} ({reason}); check the address, the "
                        "bucket and the credentials in the environment"
                    ) from error
                logger.warning("%s: %s; trying again", self.where(name), type(error).__name__)
                time.sleep(pause)

    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        protocol = self.address.partition("://")[0]
        # those of botocore would hide behind ours, which also cover a server that is away
        own = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 5,
                                 "read_timeout": 30}} if protocol == "s3" else {}  # fmt: skip
        try:
            filesystem, root = fsspec.core.url_to_fs(self.address, use_listings_cache=False, **own)
        except ImportError as error:
            raise KdeovError(
                f"{self.address}: needs {PROTOCOLS[protocol]}; install it on every machine"
                + (" (`pip install kdeov[s3]`)" if protocol == "s3" else "")
            ) from error
        return filesystem, root.rstrip("/")


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _may_pass(error: BaseException) -> bool:
    """Whether a fault is one of the network or a busy server, which another try may not meet."""
    if isinstance(error, (KdeovError, PermissionError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError):  # s3fs turns what the server answers into these
        return error.errno in (None, 5, 16, 110, 111)
    return module in ("aiohttp", "botocore", "aiobotocore", "asyncio", "fsspec", "urllib3")


class _Remote(io.RawIOBase):
    """A file of a bucket, read by ranges."""

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        self._storage, self._name, self._size, self._place = storage, name, size, 0

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
        stop = min(self._size, self._place + len(buffer))
        if stop <= self._place:
            return 0
        data = self._storage._try(
            "read", self._name, lambda fs, path: fs.cat_file(path, start=self._place, end=stop)
        )
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
