"""One spelling for texts from outside: captions, class names and names of files."""

from __future__ import annotations

import unicodedata

# letters and symbols without ink: the fillers of Hangul, and the blank of Braille
BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
INVISIBLE = ("Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp")  # categories of Unicode


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_visible(text: str) -> bool:
    """Whether a reader sees anything of a text: spaces, zero-width characters, controls and
    accents without a letter show nothing.
    """
    return any(char not in BLANKS and unicodedata.category(char) not in INVISIBLE for char in text)


def clean_caption(text: str) -> str:
    """Joins words by single spaces; an invisible caption is the empty text."""
    return " ".join(text.split()) if is_visible(text) else ""


def class_name(text: str) -> str:
    """A class as prompts name it: in NFC, with single spaces, also for underscores. Empty where
    nothing of it is visible.
    """
    return clean_caption(unicodedata.normalize("NFC", text).replace("_", " "))


def file_name(text: str) -> str:
    """The path of a file as a person compares it: in NFC, without `.` and doubled slashes."""
    text = unicodedata.normalize("NFC", text)
    path = "/".join(part for part in text.split("/") if part not in ("", "."))
    return f"/{path}" if text.startswith("/") else path
