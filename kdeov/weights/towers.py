"""The two towers of an open_clip model, built from its configuration and its weights alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.errors import KdeovError
from kdeov.weights.clip import DESCRIPTIONS
from kdeov.weights.state_dict import StateDict

Config = dict[str, Any]

SECTIONS = ("embed_dim", "quick_gelu", "init_logit_bias", "vision_cfg", "text_cfg")
# How open_clip wraps or starts the towers, which no vector depends on; the last one is CoCa's
# caption decoder.
WRAPPING = {"custom_text", "init_logit_scale", "nonscalar_logit_scale", "multimodal_cfg"}
TEXT_TENSORS = (
    "text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.",
)  # fmt: skip


def import_open_clip():
    """The `open_clip` package, or one line that names the cure.

    Raises:
        KdeovError: `open_clip` cannot be imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub's client reads it once
    try:
        import open_clip
        import open_clip.model
        import open_clip.tokenizer
    except ImportError as error:
        raise KdeovError(
            f"open_clip cannot be imported ({error}): pip install open_clip_torch"
        ) from error
    return open_clip


def read_config(path: Path, *keys: str) -> list[Any]:
    """Entries of a JSON file that this package wrote.

    Raises:
        KdeovError: The file is missing or damaged, or lacks one of the entries.
    """
    try:
        config = json.loads(path.read_text())
        return [config[key] for key in keys]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise KdeovError(
            f"{path}: missing or not what was saved there ({error!r}); save it again"
        ) from error


def tower_config(config: Config, name: str) -> Config:
    """The part of an open_clip configuration that vectors depend on.

    Args:
        config: As in open_clip's `model_configs/*.json`.
        name: Of the architecture, for errors.

    Returns:
        A copy with JSON types, `quick_gelu` always said, and nothing that downloads.

    Raises:
        KdeovError: Something is unknown, missing or not supported.
    """
    strange = sorted(config.keys() - {*SECTIONS, *WRAPPING})
    lost = sorted({"embed_dim", "vision_cfg", "text_cfg"} - config.keys())
    if strange or lost:
        what = f"{strange[0]!r} is unknown" if strange else f"{lost[0]!r} is missing"
        raise KdeovError(f"{name}: not an open_clip architecture, {what}")
    kept = json.loads(json.dumps({key: config[key] for key in SECTIONS if key in config}))
    if kept["text_cfg"].get("hf_model_name"):
        raise KdeovError(
            f"{name}: its text tower is a model of the transformers package, which is not "
            "supported; choose an architecture with open_clip's own text tower"
        )
    if ":" in (kept["vision_cfg"].get("timm_model_name") or ""):
        raise KdeovError(
            f"{name}: timm_model_name {kept['vision_cfg']['timm_model_name']!r} points outside; "
            "name an architecture of timm"
        )
    kept["quick_gelu"] = bool(kept.get("quick_gelu", False))
    for section in ("vision_cfg", "text_cfg"):  # the vector alone, for KDEOV reads no tokens
        if "output_tokens" in kept[section]:
            kept[section]["output_tokens"] = False
    if "timm_model_name" in kept["vision_cfg"]:
        kept["vision_cfg"]["timm_model_pretrained"] = False
    return kept


def image_size(config: Config, name: str) -> int:
    """Side of the square that the image tower reads, pixels.

    Raises:
        KdeovError: It reads no square.
    """
    size = config["vision_cfg"].get("image_size", 224)
    sides = set(size) if isinstance(size, list) else {size}
    if len(sides) != 1:
        raise KdeovError(f"{name}: reads images of {size} pixels; KDEOV shows squares alone")
    return int(sides.pop())


def image_transform(preprocess: Config, size: int, name: str) -> ImageTransform:
    """What the image tower is shown: a centred square, whatever `resize_mode` says.

    open_clip's modes `shortest`, `squash` and `longest` agree on squares, and KDEOV shows every
    teacher square crops, so that a view means the same to all of them.

    Raises:
        KdeovError: The preprocessing is incomplete, or its filter unknown.
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
        raise KdeovError(
            f"{name}: its preprocessing has no known {error}; give mean, std and interpolation"
        ) from error
    return transform


def build_image_tower(config: Config, name: str) -> nn.Module:
    """An image tower without its weights: normalised pixels [B, 3, S, S] to [B, D]."""
    return _build(import_open_clip().model._build_vision_tower, config, "vision_cfg", name)


def build_text_tower(config: Config, name: str) -> nn.Module:
    """A text tower without its weights: tokens [N, context] to [N, D]."""
    return _build(import_open_clip().model._build_text_tower, config, "text_cfg", name)


def _build(build: Callable[..., nn.Module], config: Config, section: str, name: str) -> nn.Module:
    try:
        return build(config["embed_dim"], config[section], config["quick_gelu"])
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KdeovError(
            f"{name}: open_clip builds no tower of its {section} ({reason})"
        ) from error


def named_as_towers(state: StateDict) -> StateDict:
    """One set of names for all of open_clip's layouts: `visual.*`, `text.*`, `logit_scale`.

    `open_clip.CLIP`, as OpenAI's CLIP, has the text tower's tensors at the top.
    """
    named = {
        f"text.{key}" if key.startswith(TEXT_TENSORS) else key: value
        for key, value in state.items()
        if key not in DESCRIPTIONS and not key.startswith("text_decoder.")
    }
    for key in ("logit_scale", "logit_bias"):
        if key in named and named[key].numel() == 1:
            named[key] = named[key].reshape(())
    return named


def fill(module: nn.Module, state: StateDict, name: str, prefix: str = "") -> None:
    """Gives a module exactly its tensors, in its own number format.

    Raises:
        KdeovError: A tensor is missing, strange or of another shape; names the first one.
    """
    wanted = module.state_dict()
    for key in [*wanted, *state]:
        if key not in state:
            problem = "is missing"
        elif key not in wanted:
            problem = "is unknown to it"
        elif state[key].shape != wanted[key].shape:
            shapes = f"{tuple(state[key].shape)}, the architecture's is {tuple(wanted[key].shape)}"
            problem = f"has shape {shapes}"
        else:
            continue
        raise KdeovError(
            f"{name}: not the weights of this architecture, {prefix + key!r} {problem}; "
            "name the architecture and the weights that belong together"
        )
    module.load_state_dict(state)
