"""Text in figures: names from outside are drawn letter by letter, never as markup.

Matplotlib takes what stands between two dollar signs for a formula, and draws a box in place of a
character that its font lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib import style
from matplotlib.font_manager import FontProperties, findfont, get_font

MAX_LABEL_LENGTH = 32  # characters
END_LENGTH = 8  # of them, at the end of a shortened name
FONT = "DejaVu Sans"  # matplotlib brings it along
SETTINGS: dict[str, Any] = {
    "font.family": FONT,
    "text.parse_math": False,
    "text.usetex": False,
}


@contextmanager
def plain_text(settings: dict[str, Any] | None = None) -> Iterator[None]:
    """The style of all figures, as a context or a decorator: matplotlib's own, whatever a
    `matplotlibrc` of the machine says, and without markup in texts.

    Args:
        settings: Further matplotlib settings.
    """
    with style.context(["default", SETTINGS | (settings or {})]):
        yield


def class_labels(classes: Sequence[str]) -> list[str]:
    """Class names as a figure can draw them: on one line, and shortened in the middle if long.

    Args:
        classes: Class names.

    Returns:
        A label for each class, all different; `class N` where its name is blank, has a character
        that the font lacks, or would look like another.
    """
    labels = [_label(" ".join(name.split())) for name in classes]
    counts = Counter(labels)
    return [
        label if label and counts[label] == 1 else f"class {number}"
        for number, label in enumerate(labels)
    ]


def _label(name: str) -> str:
    if not all(ord(character) in _drawable() for character in name):
        return ""
    if len(name) <= MAX_LABEL_LENGTH:
        return name
    return f"{name[: MAX_LABEL_LENGTH - END_LENGTH - 1]}…{name[-END_LENGTH:]}"


@cache
def _drawable() -> frozenset[int]:
    """Code points that the font has."""
    return frozenset(get_font(findfont(FontProperties(FONT))).get_charmap())
