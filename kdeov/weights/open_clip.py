"""Weights for an architecture of open_clip: by tag or from a file, with what belongs to them.

A state dict does not tell which activation it was trained with, nor how its images were
normalised. Both come from open_clip's record of the tag; what a file leaves open is settled by
rules that the log tells, or refused.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdeov.errors import KdeovError
from kdeov.weights.clip import DESCRIPTIONS
from kdeov.weights.state_dict import StateDict
from kdeov.weights.towers import Config, import_open_clip, tower_config

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"  # open_clip's name for it, in folders and on the hub
ACTIVATIONS = {True: "QuickGELU", False: "GELU"}
PREPROCESSING = ("mean", "std", "interpolation")  # what vectors of squares depend on


@dataclass(frozen=True)
class Source:
    """Where a teacher's weights come from, before anything is fetched or read.

    Attributes:
        architecture: A name of `open_clip.list_models()`.
        pretrained: A tag of it, or a file's name.
        config: Of the towers.
        tag: open_clip's record of the tag, or of the tag that the file is named after.
        file: The local weight file, if it is one.
    """

    architecture: str
    pretrained: str
    config: Config
    tag: dict[str, Any] | None
    file: Path | None

    @property
    def name(self) -> str:
        """For tables, identities and errors."""
        return f"{self.architecture}/{self.pretrained}"


def find_source(architecture: str, pretrained: str | Path) -> Source:
    """Resolves names, without a network.

    Args:
        architecture: A name of `open_clip.list_models()`; `/` stands for `-`, as in open_clip.
        pretrained: A tag of the architecture or a weight file. A file that has a tag's name
            (`laion2b_s32b_b82k.safetensors`) counts as that tag's weights.

    Raises:
        KdeovError: A name is unknown, or the tag was trained with another activation.
    """
    open_clip = import_open_clip()
    known = open_clip.list_models()
    named, architecture = architecture, architecture.replace("/", "-")
    if architecture not in known:
        raise KdeovError(
            f"{named}: no architecture of open_clip{_near(architecture, known)}; "
            "open_clip.list_models() has all"
        )
    config = tower_config(open_clip.get_model_config(architecture), architecture)
    file = None
    tag = open_clip.get_pretrained_cfg(architecture, str(pretrained)) or None
    if tag is None:
        file = Path(pretrained)
        if not file.is_file():
            raise _no_such_weights(architecture, str(pretrained))
        tag = open_clip.get_pretrained_cfg(architecture, file.stem) or None
        pretrained = file.name
    source = Source(architecture, str(pretrained), config, tag, file)
    if tag is not None:
        require_activation(source, bool(tag.get("quick_gelu", False)), "the tag's weights")
    return source


def require_activation(source: Source, trained_with: bool, what: str) -> None:
    """Refuses QuickGELU weights in a GELU architecture, and the reverse: their vectors look sound
    and are wrong (open_clip itself only warns).

    Raises:
        KdeovError: Names the architecture to use instead.
    """
    built = source.config["quick_gelu"]
    if built != trained_with:
        raise KdeovError(
            f"{source.name}: {what} were trained with {ACTIVATIONS[trained_with]} and this "
            f"architecture computes {ACTIVATIONS[built]}; name {_sibling(source.architecture)} or "
            "another architecture that fits"
        )


def recognise(source: Source, state: StateDict) -> dict[str, Any]:
    """What weights were trained with: checks the activation and finds the preprocessing.

    For a tag, open_clip knows. For a file, in this order: `open_clip_config.json` beside it, the
    tag that it is named after, OpenAI's own archives by their entries, and what all tags of the
    architecture agree on (open_clip's defaults where it has none). The activation of a file that
    nothing tells of is taken from the architecture, which is part of the teacher's identity.

    Returns:
        `mean`, `std`, `interpolation` and `resize_mode`.

    Raises:
        KdeovError: The activation is another one, or the preprocessing cannot be known.
    """
    openai = all(key in state for key in DESCRIPTIONS)
    if openai:
        require_activation(source, True, "OpenAI's archives")
    beside = {} if source.file is None else _config_beside(source.file)
    if "model_cfg" in beside:
        trained_with = bool(beside["model_cfg"].get("quick_gelu", False))
        require_activation(source, trained_with, f"by {CONFIG_FILE} beside it, these weights")
    if "preprocess_cfg" in beside:
        return _told(source, beside["preprocess_cfg"], f"{CONFIG_FILE} beside the file")
    if source.tag is not None:
        return _told(source, source.tag, "open_clip's record of the tag")
    if openai:
        return _told(source, {}, "an archive of OpenAI")
    mixed = {torch.float16, torch.float32} <= {value.dtype for value in state.values()}
    if mixed and not source.config["quick_gelu"]:
        logger.warning(
            "%s: half precision but for norms, as OpenAI publishes CLIP; if these are OpenAI's "
            "weights, name an architecture with QuickGELU",
            source.name,
        )
    return _told(source, _common_preprocessing(source), "all tags of the architecture")


def _common_preprocessing(source: Source) -> dict[str, Any]:
    """What the tags of an architecture agree on; nothing, where it has none."""
    open_clip = import_open_clip()
    tags = [
        open_clip.get_pretrained_cfg(source.architecture, tag)
        for tag in open_clip.list_pretrained_tags_by_model(source.architecture)
    ]
    if len({json.dumps([tag[key] for key in PREPROCESSING]) for tag in tags}) > 1:
        raise KdeovError(
            f"{source.file}: the tags of {source.architecture} differ in mean, std or "
            "interpolation, and a file does not tell; give it the name of its tag, or put its "
            f"{CONFIG_FILE} beside it"
        )
    return tags[0] if tags else {}


def _told(source: Source, preprocess: dict[str, Any], reason: str) -> dict[str, Any]:
    """Preprocessing over open_clip's defaults (OpenAI's), and a line of the log."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged = merge_preprocess_dict(PreprocessCfg(), preprocess)
    logger.info(
        "%s: mean %s, std %s, %s follow from %s; activation %s from the architecture",
        source.name, merged["mean"], merged["std"], merged["interpolation"], reason,
        ACTIVATIONS[source.config["quick_gelu"]],
    )  # fmt: skip
    if merged["resize_mode"] != "shortest":
        logger.info(
            "%s: its authors show whole images (resize mode %s), KDEOV shows every teacher "
            "square crops",
            source.name, merged["resize_mode"],
        )  # fmt: skip
    return {key: merged[key] for key in (*PREPROCESSING, "resize_mode")}


def _config_beside(file: Path) -> dict[str, Any]:
    path = file.parent / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key, {}), dict) for key in ("model_cfg", "preprocess_cfg")
        ):
            raise ValueError("no mapping")
    except ValueError as error:
        raise KdeovError(f"{path}: damaged ({error}); mend or remove it") from error
    return config


def _no_such_weights(architecture: str, pretrained: str) -> KdeovError:
    open_clip = import_open_clip()
    sibling = _sibling(architecture)
    if open_clip.get_pretrained_cfg(sibling, pretrained):
        has = open_clip.get_model_config(architecture).get("quick_gelu", False)
        return KdeovError(
            f"{architecture}/{pretrained}: this architecture computes {ACTIVATIONS[bool(has)]} "
            f"and the tag's weights were trained with {ACTIVATIONS[not has]}; name the "
            f"architecture {sibling}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = f"its tags: {', '.join(tags)}" if tags else "it has no tags, so name a weight file"
    return KdeovError(
        f"{architecture}: {pretrained!r} is neither a tag of it nor a file"
        f"{_near(pretrained, tags)}; {known}"
    )


def _sibling(architecture: str) -> str:
    """open_clip's name of an architecture with the other activation."""
    plain = architecture.removesuffix("-quickgelu")
    return plain if plain != architecture else f"{architecture}-quickgelu"


def _near(name: str, known: Iterable[str]) -> str:
    folded = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    return f" (near: {', '.join(folded[other] for other in near)})" if near else ""
