"""Reading a text encoder of any kind from a saved model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError

from kdeov.errors import DataError
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
    """Loads the text encoder that `save` wrote into a folder.

    Raises:
        DataError: Files are missing or damaged, do not fit together, or are of a kind that this
            version does not know.
    """
    try:
        kind = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["kind"]
        if kind in KINDS:
            return KINDS[kind].load(folder)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{folder}: no saved text encoder ({' '.join(str(error).split())}); save it again"
        ) from error
    raise DataError(f"{folder}: a text encoder of unknown kind {kind!r}; use a newer KDEOV")
