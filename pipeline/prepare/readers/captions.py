"""Captions as people write them into captions as shards store them."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.prepare.images import UnusableImage

REPLACEMENT = "\ufffd"  # what a program writes for bytes that it could not decode


def clean_captions(texts: Iterable[str]) -> list[str]:
    """Captions with single spaces, without empty ones.

    Raises:
        UnusableImage: There is none, or one was decoded wrongly before.
    """
    captions = [text for raw in texts if (text := " ".join(raw.split()))]
    if not captions:
        raise UnusableImage("no caption")
    for caption in captions:
        if REPLACEMENT in caption or not is_unicode(caption):
            raise UnusableImage(f"a caption in the wrong encoding ({caption!a})")
    return captions


def caption_text(value: object) -> str:
    """A caption as JSON has it; null is the empty one.

    Raises:
        TypeError: It is no text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"the caption {value!r} is no text")
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
