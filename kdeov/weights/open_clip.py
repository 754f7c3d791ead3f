"""Names of open_clip's weights, and the activation and preprocessing that belong to them.

A state dict holds neither its activation nor how its images were normalized. Both come from
open_clip's record of the tag; for a file, rules decide, which are logged, or the file is refused.
open_clip's own `create_model` only warns where a tag's activation is another one, checks nothing
for a file, and gives a file CLIP's mean and std: SigLIP, MobileCLIP and PE-Core have others.
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

from kdeov.errors import ConfigError, DataError
from kdeov.weights.clip import ARCHIVE_METADATA
from kdeov.weights.folder import user_path
from kdeov.weights.state_dict import StateDict
from kdeov.weights.towers import Config, import_open_clip, tower_config

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"  # open_clip's name for it, in folders and on the hub
ACTIVATIONS = {True: "QuickGELU", False: "GELU"}
PREPROCESS_KEYS = ("mean", "std", "interpolation")  # embeddings of squares depend on these


@dataclass(frozen=True)
class Source:
    """The origin of a teacher's weights, before anything is fetched or read.

    Attributes:
        architecture: A name of `open_clip.list_models()`.
        pretrained: A tag of the architecture, or the name of a file.
        config: Configuration of the towers (see `tower_config`).
        tag: open_clip's record of the tag, or of the tag that the file is named after.
        file: The local weight file; None for a tag.
    """

    architecture: str
    pretrained: str
    config: Config
    tag: dict[str, Any] | None
    file: Path | None

    @property
    def name(self) -> str:
        """`ARCHITECTURE/PRETRAINED`, for tables, identities and errors."""
        return f"{self.architecture}/{self.pretrained}"


def find_source(architecture: str, pretrained: str | Path) -> Source:
    """Resolves an architecture and a tag or file, without a network.

    Args:
        architecture: A name of `open_clip.list_models()`; `/` stands for `-`, as in open_clip.
        pretrained: A tag of the architecture or a weight file. A file that has a tag's name
            (`laion2b_s32b_b82k.safetensors`) counts as that tag's weights.

    Raises:
        ConfigError: A name is unknown, or the tag was trained with another activation.
    """
    open_clip = import_open_clip()
    known = open_clip.list_models()
    given, architecture = architecture, str(architecture).replace("/", "-")
    if architecture not in known:
        raise ConfigError(
            f"{given}: no architecture of open_clip{_near(architecture, known)}; "
            "name one of open_clip.list_models()"
        )
    config = tower_config(open_clip.get_model_config(architecture), architecture)
    file = None
    tag = open_clip.get_pretrained_cfg(architecture, str(pretrained)) or None
    if tag is None:
        file = user_path(pretrained)
        if not file.is_file():
            raise _unknown_weights(architecture, str(pretrained))
        tag = open_clip.get_pretrained_cfg(architecture, file.stem) or None
        pretrained = file.name
    source = Source(architecture, str(pretrained), config, tag, file)
    if tag is not None:
        require_activation(source, bool(tag.get("quick_gelu", False)), "the tag's weights")
    return source


def require_activation(source: Source, quick_gelu: bool, weights: str) -> None:
    """Refuses QuickGELU weights in a GELU architecture, and the reverse: the embeddings would look
    sound and be wrong (mlfoundations/open_clip#771).

    Args:
        source: Names the architecture.
        quick_gelu: Whether the weights were trained with QuickGELU.
        weights: Which weights these are, for the error.

    Raises:
        ConfigError: Names the architecture to use instead.
    """
    built = source.config["quick_gelu"]
    if built != quick_gelu:
        raise ConfigError(
            f"{source.name}: {weights} were trained with {ACTIVATIONS[quick_gelu]} and this "
            f"architecture computes {ACTIVATIONS[built]}; name {_sibling(source.architecture)} or "
            "another architecture that fits"
        )


def infer_preprocessing(source: Source, state: StateDict) -> dict[str, Any]:
    """Finds the preprocessing that weights were trained with, and checks their activation.

    A tag has both in open_clip's record. A file takes them, in this order, from
    `open_clip_config.json` beside it, the tag that it is named after, its entries if it is an
    archive of OpenAI, or what all tags of the architecture agree on (open_clip's defaults where
    there are none). Without any of these the activation is the architecture's, which is part of
    the teacher's identity.

    Returns:
        `mean`, `std`, `interpolation` and `resize_mode`.

    Raises:
        ConfigError: The activation is another one, or the tags differ in their preprocessing.
        DataError: `open_clip_config.json` is damaged.
    """
    openai = all(key in state for key in ARCHIVE_METADATA)
    if openai:
        require_activation(source, True, "OpenAI's archives")
    beside = {} if source.file is None else _config_beside(source.file)
    if "model_cfg" in beside:
        quick_gelu = bool(beside["model_cfg"].get("quick_gelu", False))
        require_activation(source, quick_gelu, f"by {CONFIG_FILE} beside it, these weights")
    if "preprocess_cfg" in beside:
        return _complete(source, beside["preprocess_cfg"], f"{CONFIG_FILE} beside the file")
    if source.tag is not None:
        return _complete(source, source.tag, "open_clip's record of the tag")
    if openai:
        return _complete(source, {}, "an archive of OpenAI")
    mixed = {torch.float16, torch.float32} <= {value.dtype for value in state.values()}
    if mixed and not source.config["quick_gelu"]:
        logger.warning(
            "%s: half precision but for norms, as OpenAI publishes CLIP; if these are OpenAI's "
            "weights, name an architecture with QuickGELU",
            source.name,
        )
    return _complete(source, _common_preprocessing(source), "all tags of the architecture")


def _common_preprocessing(source: Source) -> dict[str, Any]:
    """The preprocessing on which all tags of an architecture agree; empty without tags."""
    open_clip = import_open_clip()
    tags = [
        open_clip.get_pretrained_cfg(source.architecture, tag)
        for tag in open_clip.list_pretrained_tags_by_model(source.architecture)
    ]
    if len({json.dumps([tag[key] for key in PREPROCESS_KEYS]) for tag in tags}) > 1:
        raise ConfigError(
            f"{source.file}: the tags of {source.architecture} differ in mean, std or "
            "interpolation, which a file does not hold; give it the name of its tag, or put its "
            f"{CONFIG_FILE} beside it"
        )
    return tags[0] if tags else {}


def _complete(source: Source, preprocess: dict[str, Any], origin: str) -> dict[str, Any]:
    """Completes preprocessing with open_clip's defaults (OpenAI's), and logs its origin."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged = merge_preprocess_dict(PreprocessCfg(), preprocess)
    logger.info(
        "%s: mean %s, std %s, %s from %s; activation %s from the architecture",
        source.name, merged["mean"], merged["std"], merged["interpolation"], origin,
        ACTIVATIONS[source.config["quick_gelu"]],
    )  # fmt: skip
    if merged["resize_mode"] != "shortest":
        logger.info(
            "%s: its authors show whole images (resize mode %s), KDEOV shows every teacher "
            "square crops",
            source.name, merged["resize_mode"],
        )  # fmt: skip
    return {key: merged[key] for key in (*PREPROCESS_KEYS, "resize_mode")}


def _config_beside(file: Path) -> dict[str, Any]:
    """Reads `open_clip_config.json` in the folder of a weight file; empty where there is none."""
    path = file.parent / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key, {}), dict) for key in ("model_cfg", "preprocess_cfg")
        ):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); mend or remove it") from error
    return config


def _unknown_weights(architecture: str, pretrained: str) -> ConfigError:
    open_clip = import_open_clip()
    sibling = _sibling(architecture)
    if open_clip.get_pretrained_cfg(sibling, pretrained):
        has = open_clip.get_model_config(architecture).get("quick_gelu", False)
        return ConfigError(
            f"{architecture}/{pretrained}: this architecture computes {ACTIVATIONS[bool(has)]} "
            f"and the tag's weights were trained with {ACTIVATIONS[not has]}; name the "
            f"architecture {sibling}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = f"its tags: {', '.join(tags)}" if tags else "it has no tags, so name a weight file"
    return ConfigError(
        f"{architecture}: {pretrained!r} is neither a tag of it nor a file"
        f"{_near(pretrained, tags)}; {known}"
    )


def _sibling(architecture: str) -> str:
    """open_clip's name of the same architecture with the other activation."""
    plain = architecture.removesuffix("-quickgelu")
    return plain if plain != architecture else f"{architecture}-quickgelu"


def _near(name: str, known: Iterable[str]) -> str:
    """` (near: A, B)`, the known names that are most like one; empty where none is."""
    folded = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    return f" (near: {', '.join(folded[other] for other in near)})" if near else ""
