"""Prompt templates for zero-shot classification."""

from __future__ import annotations

import hashlib

from kdeov.errors import KdeovError

# `simple` is the single prompt of CLIP's paper; `openai-7` is the short ensemble that its authors
# found to do nearly as well as their 80 on ImageNet (openai/CLIP,
# notebooks/Prompt_Engineering_for_ImageNet.ipynb, MIT).
TEMPLATES: dict[str, tuple[str, ...]] = {
    "simple": ("a photo of a {}.",),
    "plain": ("{}", "a {}", "a photo of a {}.", "a picture of a {}.", "there is a {}."),
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


def templates(name: str) -> tuple[str, ...]:
    """The templates of a named set.

    Raises:
        KdeovError: Unknown set.
    """
    if name not in TEMPLATES:
        raise KdeovError(f"template set {name!r} is unknown; choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def templates_digest(prompts: tuple[str, ...]) -> str:
    """Eight hexadecimal digits that name a list of templates in a protocol."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]
