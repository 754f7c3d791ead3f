"""Reading a text encoder of any kind from a saved model."""

from __future__ import annotations

import json
from pathlib import Path

from kdeov.errors import KdeovError
from kdeov.text.base import DESCRIPTION, TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.text.table import PrecomputedTextEncoder

KINDS: dict[str, type[TextEncoder]] = {
    "clip": FrozenCLIPTextEncoder,
    "open_clip": OpenClipTextEncoder,
    "table": PrecomputedTextEncoder,
}


def load_text_encoder(folder: Path) -> TextEncoder:
    """The text encoder that `save` wrote into a folder.

    Raises:
        KdeovError: Its kind is unknown to this version, or its files do not fit together.
        OSError, ValueError, LookupError, SafetensorError: A file is missing or damaged.
    """
    kind = json.loads((folder / DESCRIPTION).read_text())["kind"]
    if kind not in KINDS:
        raise KdeovError(f"{folder}: a text encoder of unknown kind {kind!r}; use a newer KDEOV")
    return KINDS[kind].load(folder)
