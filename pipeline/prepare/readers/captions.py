"""Cleans captions."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.prepare.images import UnusableImage

REPLACEMENT = "\ufffd"  # the replacement character, for bytes that could not be decoded


def clean_captions(texts: Iterable[str]) -> list[str]:
    """Joins words by single spaces and drops empty captions.

    Raises:
        UnusableImage: No caption is left, or one was decoded with the wrong encoding.
    """
    captions = [text for raw in texts if (text := " ".join(raw.split()))]
    if not captions:
        raise UnusableImage("no caption")
    for caption in captions:
        if REPLACEMENT in caption or not is_unicode(caption):
            raise UnusableImage(f"a caption in the wrong encoding ({caption!a})")
    return captions


def caption_text(value: object) -> str:
    """The caption of a JSON value; null is an empty caption.

    Raises:
        TypeError: The value is not a string.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"the caption {value!r} is not a string")
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
