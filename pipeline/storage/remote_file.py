"""An object of a bucket, read by ranges."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

BLOCK = 4 << 20  # bytes of a request while reading


class RemoteFile(io.RawIOBase):
    """An object, read by ranges; to be buffered, as each read is a request. While it is read in
    sequence, a thread fetches the next range.

    `fsspec.caching.BackgroundBlockCache` in its place reads as fast (93 and 91 MB/s where a request
    and the work on a block take 40 ms each), but fetches two blocks of 4 MB where a header is read,
    and starts a thread for which a process that ends waits. `fsspec.open` would skip `retry`.

    Args:
        fetch: `fetch(start, stop)` returns these bytes of the object.
        size: Bytes of the object.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch_range, self._size = fetch, size
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
        """All that is left, by one request; `RawIOBase` would ask for 8 KB at a time."""
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
            self._ahead = (self._place, _in_thread(partial(self._fetch, self._place, size)))
        return data

    def _fetch(self, start: int, size: int) -> bytes:
        return self._fetch_range(start, min(self._size, start + size))


def _in_thread(action: Callable[[], bytes]) -> Future[bytes]:
    """Starts an action in a daemon thread, for which a process that ends does not wait."""
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001 - raised by `result`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
