"""The cure for a split without inputs: a share that would fill it, or images where none can."""

from __future__ import annotations

from typing import Any

from kdeov.errors import ConfigError
from pipeline.config.source_params import Shares
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.sources import open_source

DRAWN = ("val", "test")  # splits that may have a share; the rest is for training


def empty_split(params: PrepareParams, split: str) -> ConfigError:
    """The error of a split without inputs.

    Whether a share fills it is tried: the source is listed again with the largest share for it.

    Args:
        params: The section `prepare`.
        split: Name of the split.
    """
    where, shares = _shares(params)
    wanted = {name: float(name == split) for name in shares}
    drawn = len(open_source(_with_shares(params, wanted)).inputs[split]) if shares else 0
    text = f"{params.path}: the {split} split is empty"
    names = " and ".join(f"{where}.{name}" for name in shares)
    if not drawn:
        return ConfigError(f"{text}, and no share fills it; add images to it")
    if drawn <= len(shares):
        return ConfigError(f"{text}, and {drawn} images are too few to share out; add images")
    if split == "train":
        return ConfigError(f"{text}; lower {names}, its share is what they leave")
    return ConfigError(f"{text}; give it a larger share in {where}.{split}")


def _shares(params: PrepareParams) -> tuple[str, list[str]]:
    """The section of params with shares, and the names of its shares."""
    section, options = f"prepare.{params.source}", getattr(params, params.source)
    if "shares" in type(options).model_fields:
        return f"{section}.shares", list(DRAWN)
    return section, [name for name in DRAWN if isinstance(getattr(options, name, None), float)]


def _with_shares(params: PrepareParams, shares: dict[str, float]) -> PrepareParams:
    options = getattr(params, params.source)
    update: dict[str, Any] = dict(shares)
    if "shares" in type(options).model_fields:
        update = {"shares": Shares.model_construct(None, **shares)}
    return params.model_copy(update={params.source: options.model_copy(update=update)})
