"""CLIP weights by name or by path: one way in for OpenAI's models, local files and the generated
tiny teacher.
"""

from __future__ import annotations

import urllib.error
import warnings
from pathlib import Path

from kdeov.errors import KdeovError
from kdeov.weights.state_dict import StateDict, read_state_dict

# Entries of OpenAI's archives that describe the model and are no weights.
DESCRIPTIONS = ("input_resolution", "context_length", "vocab_size")
REQUIRED = ("text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight")


def import_clip():
    """The `clip` package, or one line that names the cure.

    Raises:
        KdeovError: `clip` cannot be imported, or it is the clipboard manager of the same name.
    """
    try:
        with (
            warnings.catch_warnings()
        ):  # clip-anytorch imports pkg_resources, which warns at every start
            warnings.simplefilter("ignore", UserWarning)
            import clip
    except ImportError as error:
        raise KdeovError(
            f"the clip package cannot be imported ({error}): pip install clip-anytorch "
            "'setuptools<81'"
        ) from error
    if not hasattr(clip, "tokenize"):
        raise KdeovError(
            "the installed package `clip` is a clipboard manager: "
            "pip uninstall clip && pip install clip-anytorch 'setuptools<81'"
        )
    return clip


def clip_cache() -> Path:
    """Where `clip` keeps what it has downloaded."""
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
        KdeovError: Unknown name, missing file, no network, or weights of something else.
    """
    clip = import_clip()
    name = str(name_or_path)
    known = clip.clip._MODELS
    path = _fetch(name, known[name], cache or clip_cache()) if name in known else Path(name)
    if not path.is_file():
        raise KdeovError(
            f"{name}: neither a file nor a CLIP model; known names: "
            f"{', '.join(clip.available_models())}"
        )
    state = read_state_dict(path)
    missing = [key for key in REQUIRED if key not in state]
    if missing:
        raise KdeovError(
            f"{path}: not CLIP weights, {missing[0]!r} is missing; name a CLIP state dict"
        )
    return {key: value for key, value in state.items() if key not in DESCRIPTIONS}


def _fetch(name: str, url: str, cache: Path) -> Path:
    """Downloads with a progress bar and checks the sha256 that is part of OpenAI's addresses."""
    clip = import_clip()
    target = cache / Path(url).name
    try:
        return Path(clip.clip._download(url, str(cache)))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise KdeovError(
            f"{name}: its weights are not in {target} and cannot be downloaded ({reason}); "
            f"download {url} elsewhere and put it there"
        ) from error
