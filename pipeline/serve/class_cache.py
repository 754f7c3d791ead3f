"""Class embeddings of single labels, kept for later requests with some of the same labels."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

CACHED_LABELS = 20_000  # 40 MB at 512 dimensions; those that were asked for long ago go

Key = tuple[str, bytes]  # a label and the digest of its prompts, which may be long


class ClassCache:
    """Class embeddings by label and prompts; several threads may use it.

    Args:
        embed: From K labels and their prompts to unit embeddings [K, D].
        size: Labels that are kept.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[str], Sequence[str]], np.ndarray],
        size: int = CACHED_LABELS,
    ) -> None:
        self._embed, self._size = embed, size
        self._rows: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray | None:
        """Embeddings float32 [K, D] of labels that are all kept; None if one is not."""
        found = self._find(labels, _digest(prompts))
        rows = [row for row in found if row is not None]
        return np.stack(rows) if len(rows) == len(labels) else None

    def embed(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [K, D] of labels, of which those that are not kept are computed.

        Raises:
            KdeovError: A label cannot be embedded.
        """
        digest = _digest(prompts)
        found = dict(zip(labels, self._find(labels, digest), strict=True))
        missing = [label for label, row in found.items() if row is None]
        if missing:
            made = zip(missing, self._embed(missing, prompts), strict=True)
            found.update(new := {label: row.copy() for label, row in made})
            with self._lock:
                self._rows.update({(label, digest): row for label, row in new.items()})
                while len(self._rows) > self._size:
                    self._rows.popitem(last=False)
        return np.stack([row for label in labels if (row := found[label]) is not None])

    def _find(self, labels: Sequence[str], digest: bytes) -> list[np.ndarray | None]:
        with self._lock:
            keys = [(label, digest) for label in labels]
            for key in keys:
                if key in self._rows:
                    self._rows.move_to_end(key)
            return [self._rows.get(key) for key in keys]


def _digest(prompts: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(list(prompts)).encode()).digest()
