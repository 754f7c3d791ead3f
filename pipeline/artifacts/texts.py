"""One spelling for texts from outside: captions, class names and names of files."""

from __future__ import annotations

import unicodedata

from kdeov.prompts import is_visible, normalize_text


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean_caption(text: str) -> str:
    """Joins words by single spaces; an invisible caption is the empty text."""
    return " ".join(text.split()) if is_visible(text) else ""


def class_name(text: str) -> str:
    """A class as prompts name it: in NFC, with single spaces, also for underscores. Empty where
    nothing of it is visible.
    """
    return normalize_text(text.replace("_", " ")) if is_visible(text.replace("_", " ")) else ""


def file_name(text: str) -> str:
    """The path of a file as a person compares it: in NFC, without `.` and doubled slashes."""
    text = unicodedata.normalize("NFC", text)
    path = "/".join(part for part in text.split("/") if part not in ("", "."))
    return f"/{path}" if text.startswith("/") else path
