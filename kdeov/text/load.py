"""Writing and reading a text encoder of any kind in a saved model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError

from kdeov.errors import ConfigError, DataError
from kdeov.text.base import DESCRIPTION, TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.text.table import PrecomputedTextEncoder
from kdeov.weights.state_dict import PLAIN, plain_name

KINDS: dict[str, type[TextEncoder]] = {
    "clip": FrozenCLIPTextEncoder,
    "open_clip": OpenClipTextEncoder,
    "table": PrecomputedTextEncoder,
}


def save_text_encoder(encoder: TextEncoder, folder: Path) -> None:
    """Writes a text encoder into an empty folder, and reads it again.

    Raises:
        ConfigError: It could not be loaded again, or not all of it.
        StorageError: Files that it needs cannot be reached.
    """
    try:
        encoder.save(folder)
        names = load_text_encoder(folder).state_dict().keys()
    except (DataError, ConfigError, AttributeError, RuntimeError, TypeError) as error:
        raise ConfigError(f"the text encoder could not be loaded again; {PLAIN}") from error
    if others := sorted({plain_name(name) for name in encoder.state_dict()} ^ names):
        raise ConfigError(
            f"the text encoder has other tensors than one that is loaded, such as {others[0]}; "
            f"{PLAIN}"
        )


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
