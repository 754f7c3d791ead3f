"""CLIP weights by name or path: OpenAI's models, local files and the generated tiny teacher."""

from __future__ import annotations

import urllib.error
import warnings
from pathlib import Path

from kdeov.errors import ConfigError, DataError, StorageError
from kdeov.weights.compat import download, model_urls
from kdeov.weights.folder import user_path
from kdeov.weights.state_dict import StateDict, read_state_dict

# Entries of OpenAI's archives that describe the model and are no weights.
ARCHIVE_METADATA = ("input_resolution", "context_length", "vocab_size")
REQUIRED_TENSORS = (
    "text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight",
)  # fmt: skip


def import_clip():
    """Imports the `clip` package.

    Raises:
        ConfigError: `clip` cannot be imported, or is the clipboard manager of the same name.
    """
    try:
        # clip-anytorch imports pkg_resources, which warns at every start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            import clip
    except ImportError as error:
        raise ConfigError(
            f"the clip package cannot be imported ({error}): pip install clip-anytorch "
            "'setuptools<81'"
        ) from error
    if not hasattr(clip, "tokenize"):
        raise ConfigError(
            "the installed package `clip` is a clipboard manager: "
            "pip uninstall clip && pip install clip-anytorch 'setuptools<81'"
        )
    return clip


def clip_cache() -> Path:
    """The folder into which `clip` downloads."""
    return Path.home() / ".cache" / "clip"


def load_clip_state_dict(name_or_path: str | Path, cache: Path | None = None) -> StateDict:
    """Reads the weights of a CLIP model.

    Args:
        name_or_path: A name of `clip.available_models()`, or a weight file (TorchScript archive,
            state dict, safetensors).
        cache: Folder for downloaded archives; `~/.cache/clip` by default, as in `clip`.

    Returns:
        A state dict with the names of `clip.model.CLIP`.

    Raises:
        ConfigError: The name is unknown and no file has it.
        DataError: The file is damaged, or holds the weights of something else.
        StorageError: The weights cannot be downloaded.
    """
    clip = import_clip()
    name, urls = str(name_or_path), model_urls(clip)
    path = _fetch(name, urls[name], cache or clip_cache()) if name in urls else user_path(name)
    if not path.is_file():
        raise ConfigError(
            f"{name}: neither a file nor a CLIP model; known names: "
            f"{', '.join(clip.available_models())}"
        )
    state = read_state_dict(path)
    missing = [key for key in REQUIRED_TENSORS if key not in state]
    if missing:
        raise DataError(
            f"{path}: not CLIP weights, {missing[0]!r} is missing; name a CLIP state dict"
        )
    return {key: value for key, value in state.items() if key not in ARCHIVE_METADATA}


def _fetch(name: str, url: str, cache: Path) -> Path:
    """Downloads an archive, unless it is there, and compares its sha256."""
    try:
        return download(import_clip(), url, cache)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise StorageError(
            f"{name}: its weights are not in {cache / Path(url).name} and cannot be downloaded "
            f"({reason}); download {url} elsewhere and put it there"
        ) from error
