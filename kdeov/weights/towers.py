"""The two towers of an open_clip model, from a configuration and a state dict.

`open_clip.create_model("local-dir:FOLDER")` would build and fill a model in one call. In
open_clip 3.3.0 that call breaks promises of KDEOV, so configuration and state dict are checked here
and only the towers themselves are open_clip's:

- a configuration with `hf_model_name`, or with a `timm_model_name` on the hub, starts a download
  (without a network: five retries, 23 s);
- weights of another image size or context length are interpolated to fit without a word;
- a folder without weights gives a model with random weights, and a warning;
- an archive as OpenAI publishes it is refused, and the error for a tensor of another model lists
  every tensor (17,000 characters for ViT-B-32 in an RN50).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, DataError, first_line
from kdeov.weights.clip import ARCHIVE_METADATA
from kdeov.weights.state_dict import StateDict

Config = dict[str, Any]

CONFIG_KEYS = ("embed_dim", "quick_gelu", "init_logit_bias", "vision_cfg", "text_cfg")
# Keys that change how open_clip wraps or initialises the towers and no embedding; the last one is
# CoCa's caption decoder.
IGNORED_KEYS = {"custom_text", "init_logit_scale", "nonscalar_logit_scale", "multimodal_cfg"}
# The smallest towers that open_clip builds, in the place of the one that is not asked for.
NO_IMAGE_TOWER = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}
NO_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "layers": 1, "width": 64, "heads": 1}


def import_open_clip():
    """Imports the `open_clip` package.

    Raises:
        ConfigError: `open_clip` cannot be imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub's client reads it once
    try:
        import open_clip
        import open_clip.model
        import open_clip.tokenizer
    except ImportError as error:
        raise ConfigError(
            f"open_clip cannot be imported ({error}): pip install open_clip_torch"
        ) from error
    return open_clip


def read_config(path: Path, *keys: str) -> list[Any]:
    """Reads entries of a JSON file that KDEOV wrote.

    Raises:
        DataError: The file is missing or damaged, or lacks one of the entries.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_saved(path, error) from error
    return entries(config, path, *keys)


def entries(config: Any, path: Path, *keys: str) -> list[Any]:
    """Entries of a configuration that KDEOV wrote.

    Raises:
        DataError: It lacks one of them; names the file.
    """
    try:
        return [config[key] for key in keys]
    except (TypeError, LookupError) as error:
        raise _not_saved(path, error) from error


def _not_saved(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: missing or not what was saved there ({error!r}); save it again")


def tower_config(config: Config, name: str) -> Config:
    """Reduces an open_clip configuration to the part that embeddings depend on.

    Args:
        config: As in open_clip's `model_configs/*.json`.
        name: Name of the architecture, for errors.

    Returns:
        A copy of JSON types with an explicit `quick_gelu` and nothing that downloads.

    Raises:
        ConfigError: A key is unknown, missing or not supported.
    """
    unknown = sorted(config.keys() - {*CONFIG_KEYS, *IGNORED_KEYS})
    missing = sorted({"embed_dim", "vision_cfg", "text_cfg"} - config.keys())
    if unknown or missing:
        problem = f"{unknown[0]!r} is unknown" if unknown else f"{missing[0]!r} is missing"
        raise ConfigError(
            f"{name}: not an open_clip architecture, {problem}; name one of open_clip.list_models()"
        )
    reduced = json.loads(json.dumps({key: config[key] for key in CONFIG_KEYS if key in config}))
    vision, text = reduced["vision_cfg"], reduced["text_cfg"]
    if text.get("hf_model_name"):
        raise ConfigError(
            f"{name}: its text tower is a model of the transformers package, which is not "
            "supported; choose an architecture with open_clip's own text tower"
        )
    if ":" in (vision.get("timm_model_name") or ""):
        raise ConfigError(
            f"{name}: timm_model_name {vision['timm_model_name']!r} would be downloaded; "
            "name an architecture of timm"
        )
    reduced["quick_gelu"] = bool(reduced.get("quick_gelu", False))
    for section in (vision, text):  # the pooled embedding alone: KDEOV reads no tokens
        if "output_tokens" in section:
            section["output_tokens"] = False
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    return reduced


def image_size(config: Config, name: str) -> int:
    """Side of the square that the image tower reads, pixels.

    Raises:
        ConfigError: The tower reads rectangles.
    """
    size = config["vision_cfg"].get("image_size", 224)
    sides = set(size) if isinstance(size, list) else {size}
    if len(sides) != 1:
        raise ConfigError(
            f"{name}: reads images of {size} pixels, KDEOV shows squares alone; choose an "
            "architecture that reads squares"
        )
    return int(sides.pop())


def image_transform(preprocess: Config, size: int, name: str) -> ImageTransform:
    """Builds the transform of a teacher: a centred square, whatever `resize_mode` says.

    open_clip's modes `shortest`, `squash` and `longest` agree on squares. KDEOV shows every teacher
    square crops, so that a view means the same to all of them.

    Raises:
        ConfigError: The preprocessing is incomplete, or its filter unknown.
    """
    try:
        transform = ImageTransform(
            size=size,
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
            interpolation=preprocess["interpolation"],
        )
        _ = transform.resampling
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{name}: its preprocessing has no known {error}; give mean, std and interpolation"
        ) from error
    return transform


def build_image_tower(config: Config, name: str) -> nn.Module:
    """Builds an image tower with random weights: normalized pixels [B, 3, S, S] to [B, D].

    Raises:
        ConfigError: open_clip cannot build it.
    """
    return _build({**config, "text_cfg": NO_TEXT_TOWER}, "vision_cfg", name).visual


def build_text_tower(config: Config, name: str) -> nn.Module:
    """Builds a text tower with random weights: tokens [N, context] to [N, D].

    Raises:
        ConfigError: open_clip cannot build it.
    """
    return _build({**config, "vision_cfg": NO_IMAGE_TOWER}, "text_cfg", name).text


def _build(config: Config, section: str, name: str) -> Any:
    try:
        return import_open_clip().CustomTextCLIP(
            config["embed_dim"], config["vision_cfg"], config["text_cfg"], config["quick_gelu"]
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{name}: open_clip builds no tower of its {section} ({first_line(error)}); mend it, "
            "or name an architecture of open_clip.list_models()"
        ) from error


def tower_state_dict(state: StateDict) -> StateDict:
    """Renames the tensors of any open_clip layout to `visual.*`, `text.*` and `logit_scale`.

    `open_clip.CLIP`, as OpenAI's CLIP, has the text tower's tensors at the top.
    """
    convert = import_open_clip().model.convert_to_custom_text_state_dict
    tensors = {
        key: value
        for key, value in convert(state).items()
        if key not in ARCHIVE_METADATA and not key.startswith("text_decoder.")
    }
    for key in ("logit_scale", "logit_bias"):
        if key in tensors and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(())
    return tensors


def load_strictly(module: nn.Module, state: StateDict, name: str, prefix: str = "") -> None:
    """Loads a state dict that has exactly the module's tensors; dtypes become the module's.

    torch's `load_state_dict` compares the same but for scalars, which it takes from the front of a
    longer tensor; and its message lists every tensor where one is enough.

    Raises:
        DataError: A tensor is missing, unknown or of another shape; names the first one.
    """
    expected = module.state_dict()
    for key in [*expected, *state]:
        if key not in state:
            problem = "is missing"
        elif key not in expected:
            problem = "is unknown to it"
        elif state[key].shape != expected[key].shape:
            problem = (
                f"has shape {tuple(state[key].shape)}, the architecture's is "
                f"{tuple(expected[key].shape)}"
            )
        else:
            continue
        raise DataError(
            f"{name}: not the weights of this architecture, {prefix + key!r} {problem}; "
            "name the architecture and the weights that belong together"
        )
    module.load_state_dict(state)
