"""A storage in a bucket, by fsspec. Network errors are retried (see `retries`)."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from kdeov.errors import ConfigError
from pipeline.storage.files import writing
from pipeline.storage.remote_file import BLOCK, RemoteFile
from pipeline.storage.retries import PATIENCE_S, answer_of, retry

T = TypeVar("T")
PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}  # and the package that fsspec needs
PART = 16 << 20  # bytes of each part of a large upload, and of a read while downloading
NUM_LISTINGS = 16  # prefixes that are listed at once: a server gives a thousand names a request
LISTED_DEPTH = 2  # levels of folders, such as splits and classes, that are listed one by one


@dataclass(frozen=True, slots=True)  # there may be millions
class StoredObject:
    """An object of a bucket, as a listing shows it.

    Attributes:
        name: Below the address of the listing.
        size: Bytes.
        version: Changes with the bytes: its entity tag, or where the store gives none, its size and
            time.
    """

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class BucketStorage:
    """Objects below an address such as `s3://BUCKET/PREFIX` (see `Storage`).

    fsspec's file system is looked up for each request, from a cache that fsspec keeps for each
    process: so an instance may be used in a process that was forked.

    Attributes:
        address: Without a slash at its end.
        patience_s: For how long a failing network is retried.
    """

    address: str
    patience_s: float = field(default=PATIENCE_S, compare=False)

    def __truediv__(self, name: str) -> BucketStorage:
        return BucketStorage(f"{self.address}/{name}", self.patience_s)

    @property
    def folder(self) -> None:
        return None

    def where(self, name: str) -> str:
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        return self._request("read", name, lambda fs, path: fs.cat_file(path))

    def write(self, name: str, data: bytes) -> None:
        self._request("written", name, lambda fs, path: fs.pipe_file(path, data))

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        condition: dict[str, Any] = {"mode": "create"}
        try:
            if old is not None:
                # the tag comes before the bytes: of an object that changes in between, it is stale
                condition = {"IfMatch": self._etag(name)}
                if self.read(name) != old:
                    return False
            self._request("written", name, partial(_put_if, data=new, condition=condition))
        except FileNotFoundError:
            return False
        except FileExistsError:
            # a first try may have succeeded and its answer been lost
            with contextlib.suppress(FileNotFoundError):
                return self.read(name) == new
            return False
        return True

    def upload(self, path: Path, name: str) -> None:
        options = {"chunksize": PART} if self._protocol == "s3" else {}
        self._request("written", name, lambda fs, there: fs.put_file(str(path), there, **options))

    def download(self, name: str, path: Path) -> None:
        with self.open(name) as source, writing(path) as file:
            shutil.copyfileobj(source, file, PART)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        size = self.size(name) if size is None else size
        if size is None:
            raise FileNotFoundError(self.where(name))
        return io.BufferedReader(self.open_ranges(name, size), BLOCK)

    def open_ranges(self, name: str, size: int) -> RemoteFile:
        """A file of `size` bytes of which each read is a request for just its bytes."""
        return RemoteFile(partial(self._read_range, name), size)

    def _read_range(self, name: str, start: int, stop: int) -> bytes:
        return self._request("read", name, partial(_get_range, start=start, stop=stop))

    def size(self, name: str) -> int | None:
        try:
            found = self._request("read", name, lambda fs, path: fs.info(path))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def names(self, prefix: str = "") -> list[str]:
        def listed(fs: Any, path: str) -> list[str]:
            above = f"{path}/"  # itself an object in some buckets
            found = (entry["name"].rstrip("/") for entry in fs.ls(path, detail=True, refresh=True))
            return [name.removeprefix(above) for name in found if name.startswith(above)]

        try:
            return sorted(self._request("read", prefix, listed))
        except FileNotFoundError:
            return []

    def stored(self, name: str) -> StoredObject | None:
        """An object, or None where it is not there.

        Raises:
            StorageError: The bucket cannot be read.
        """
        try:
            found = self._request("read", name, lambda fs, path: fs.info(path, refresh=True))
        except FileNotFoundError:
            return None
        return next(iter(_only_objects(self._entries([found]))), None)

    def objects(self) -> list[StoredObject]:
        """All objects below the address, sorted by name; prefixes are listed side by side.

        Raises:
            StorageError: The bucket does not exist or cannot be read.
        """
        with ThreadPoolExecutor(NUM_LISTINGS) as pool:
            folders, found = self._level("")
            for depth in range(LISTED_DEPTH):
                list_one = self._level if depth < LISTED_DEPTH - 1 else self._below
                below = list(pool.map(list_one, folders))
                folders = [folder for some, _ in below for folder in some]
                found += [entry for _, some in below for entry in some]
        return sorted(found, key=lambda entry: entry.name)

    def _level(self, prefix: str) -> tuple[list[str], list[StoredObject]]:
        """The folders and the objects directly below a prefix."""
        try:
            found = self._request(
                "read", prefix, lambda fs, path: fs.ls(path, detail=True, refresh=True)
            )
        except FileNotFoundError:
            return [], []
        kinds = self._entries(found)
        return [name for name, entry in kinds if entry is None], _only_objects(kinds)

    def _below(self, prefix: str) -> tuple[list[str], list[StoredObject]]:
        """No folder, and all objects below a prefix."""
        found = self._request("read", prefix, lambda fs, path: fs.find(path, detail=True))
        return [], _only_objects(self._entries(found.values()))

    def _entries(self, found: Iterable[dict[str, Any]]) -> list[tuple[str, StoredObject | None]]:
        """Name and object of each entry of a listing; a folder has no object."""
        above = self.address.partition("://")[2] + "/"
        entries: list[tuple[str, StoredObject | None]] = []
        for entry in found:
            name = entry["name"].removeprefix(above)
            if name == entry["name"] or (name.endswith("/") and entry["type"] == "file"):
                continue  # the prefix itself, or an empty object that stands for a folder
            if entry["type"] != "file":
                entries.append((name.rstrip("/"), None))
                continue
            size, tag = int(entry["size"]), entry.get("ETag") or entry.get("etag")
            version = tag or f"{size}-{entry.get('LastModified') or entry.get('updated')}"
            entries.append((name, StoredObject(name, size, str(version).strip('"'))))
        return entries

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request("deleted", name, lambda fs, path: fs.rm_file(path))

    def clean(self) -> None:
        """Nothing to do: a bucket shows no object before it is whole."""

    def require_writable(self) -> None:
        name = f"writable-{uuid.uuid4().hex}"
        self.write(name, b"?")
        self.read(name)
        self.delete(name)

    def for_ray(self) -> dict[str, Any]:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        filesystem, root = self._filesystem({})  # with its own retries, as Ray has none
        return {
            "storage_path": root, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))
        }  # fmt: skip

    def _request(self, verb: str, name: str, action: Callable[[Any, str], T]) -> T:
        """Calls `action(filesystem, path)`, with retries."""

        def act() -> T:
            filesystem, root = self._filesystem(_s3_options() if self._protocol == "s3" else {})
            filesystem.retries = 1  # disables s3fs's own retries; `retry` retries and logs
            return action(filesystem, f"{root}/{name}".rstrip("/"))

        return retry(act, self.where(name), verb, self.patience_s)

    def _etag(self, name: str) -> str:
        found = self._request("read", name, lambda fs, path: fs.info(path, refresh=True))
        if "ETag" not in found:
            raise ConfigError(
                f"{self.address}: conditional writes need s3:// or a shared folder; set "
                "cluster.storage to one"
            )
        return found["ETag"]

    def _filesystem(self, options: dict[str, Any]) -> tuple[Any, str]:
        """fsspec's file system, and the path of the address in it.

        Raises:
            ConfigError: The package that it needs is not installed.
        """
        import fsspec

        try:
            filesystem, root = fsspec.core.url_to_fs(
                self.address, use_listings_cache=False, **options
            )
        except ImportError as error:
            raise ConfigError(
                f"{self.address}: needs {PROTOCOLS[self._protocol]}; install it on every machine"
                + (" (`pip install kdeov[s3]`)" if self._protocol == "s3" else "")
            ) from error
        return filesystem, root.rstrip("/")

    @property
    def _protocol(self) -> str:
        return self.address.partition("://")[0]


def _only_objects(entries: list[tuple[str, StoredObject | None]]) -> list[StoredObject]:
    return [entry for _, entry in entries if entry is not None]


def _get_range(filesystem: Any, path: str, start: int, stop: int) -> bytes:
    """Some bytes of an object.

    Raises:
        FileNotFoundError: The object is gone, or another and shorter one is in its place.
    """
    try:
        return filesystem.cat_file(path, start=start, end=stop)
    except OSError as error:
        if answer_of(error)[1] == "InvalidRange":
            raise FileNotFoundError(errno.ENOENT, "replaced by a shorter one", path) from error
        raise


def _put_if(filesystem: Any, path: str, data: bytes, condition: dict[str, Any]) -> None:
    """Writes an object under a condition.

    Raises:
        FileExistsError: The condition does not hold.
    """
    try:
        filesystem.pipe_file(path, data, **condition)
    except OSError as error:
        # s3fs has no type for a failed If-Match; NoSuchKey: deleted since
        status, code = answer_of(error)
        if status in (409, 412) or code == "NoSuchKey":
            raise FileExistsError(errno.EEXIST, "changed in between", path) from error
        raise


def _s3_options() -> dict[str, Any]:
    # credentials are botocore's own business: the environment, its files, the machine's role
    return {
        # part of the key of fsspec's cache, which would otherwise keep a changed endpoint
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "config_kwargs": {
            "retries": {"max_attempts": 0}, "connect_timeout": 5, "read_timeout": 30
        },
        "max_concurrency": 1,  # one part of a file is in memory, and small reads are one request
    }  # fmt: skip
