"""The index of a server, which `kdeov index` may bring up to date meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.search.identity import IndexIdentity
from pipeline.search.index import Index

logger = logging.getLogger(__name__)


class ServedIndex:
    """An index that is opened again every few seconds; threads may share it.

    Args:
        folder: The index.
        refresh_s: Seconds for which an opened index is used.
        accept: Called with the identity of an index that was made anew; raises a `KdeovError` where
            the model of the server does not fit it.

    Raises:
        KdeovError: There is no index, or it is damaged.
    """

    def __init__(
        self, folder: Path, refresh_s: float, accept: Callable[[IndexIdentity], object]
    ) -> None:
        self.folder, self._refresh_s, self._accept = folder, refresh_s, accept
        self._index, self._opened_at = Index.open(folder), time.monotonic()
        self._complained = ""
        self._lock = threading.Lock()

    def current(self) -> Index:
        """The index as it is now, or was when it could be opened last."""
        with self._lock:
            if time.monotonic() - self._opened_at > self._refresh_s:
                self._opened_at = time.monotonic()
                try:
                    found = Index.open(self.folder)
                    if found.identity != self._index.identity:
                        self._accept(found.identity)
                    self._index, self._complained = found, ""
                except KdeovError as error:
                    if str(error) != self._complained:
                        self._complained = str(error)
                        logger.warning("the index stays as it was: %s", error)
            return self._index
