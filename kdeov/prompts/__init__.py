"""Prompt templates for zero-shot classification."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kdeov.errors import ConfigError

# `simple` is the single prompt of CLIP's paper; `openai-7` is the short ensemble that its authors
# found to do nearly as well as their 80 on ImageNet (openai/CLIP,
# notebooks/Prompt_Engineering_for_ImageNet.ipynb, MIT); `detic` is the prompt of the class
# embeddings that Detic and YOLO-World are published with.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "simple": ("a photo of a {}.",),
    "plain": ("{}", "a {}", "a photo of a {}.", "a picture of a {}.", "there is a {}."),
    "detic": ("a {}",),
    "openai-7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}
TEMPLATES_FILE = Path(__file__).with_name("templates.json")


@cache
def published_templates() -> dict[str, tuple[str, ...]]:
    """The sets of CLIP's benchmarks: `openai-80` for ImageNet, and one per data set, such as
    `cifar10`; `templates.json` names their sources.
    """
    return {
        name: tuple(prompts)
        for name, prompts in json.loads(TEMPLATES_FILE.read_text(encoding="utf-8"))["sets"].items()
    }


def templates(name: str) -> tuple[str, ...]:
    """Prompts of a named set, each with one `{}`.

    Raises:
        ConfigError: The set is unknown; names the nearest one.
    """
    known = TEMPLATES | published_templates()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TEMPLATES)}, ..."
        raise ConfigError(f"template set {name!r} is unknown; {hint}")
    return known[name]


def templates_digest(prompts: Sequence[str]) -> str:
    """Eight hexadecimal digits of a list of templates, for evaluation protocols."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]
