"""Fonts for names in any script."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
SUFFIXES = (".ttf", ".otf", ".ttc")
NO_CHARACTER = "\U0010ffff"  # of no font: shows what a font draws for characters that it lacks
MARKS = ("Mn", "Me", "Cf", "Zs")  # categories of Unicode that draw nothing of their own


def font_for(text: str, size: int) -> Font | None:
    """The first font that has all characters of a text: Pillow's own, else one of the system.

    Args:
        text: The text.
        size: Height of a line, pixels.

    Returns:
        None where no font has them.
    """
    font = ImageFont.load_default(size)
    if has_characters(font, text):
        return font
    for path in system_fonts():
        try:
            font = ImageFont.truetype(path, size)
            if has_characters(font, text):
                return font
        except (OSError, ValueError):  # damaged, or of a kind that FreeType cannot scale
            continue
    return None


def has_characters(font: Font, text: str) -> bool:
    """Whether a font draws each character of a text as itself."""
    lacking = _drawn(font, NO_CHARACTER)
    visible = {char for char in text if unicodedata.category(char) not in MARKS}
    return all(_drawn(font, char) != lacking for char in visible)


@cache
def system_fonts() -> tuple[str, ...]:
    """Files of the fonts of this machine, plain ones first."""
    found = [path for folder in FOLDERS for path in _files(os.path.expanduser(folder))]  # noqa: PTH111
    return tuple(sorted(found, key=lambda path: (_is_styled(path), path)))


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(place, name)  # noqa: PTH118


def _is_styled(path: str) -> bool:
    name = Path(path).stem.lower()
    return any(
        word in name
        for word in ("bold", "italic", "oblique", "light", "thin", "mono", "serif", "condensed")
    )


def _drawn(font: Font, text: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(text)
    return mask.size, bytes(mask)
