"""Charts as inline SVG, whose colors are variables of the page: they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figure_text import plain_text

INK, SOFT, LINE = "#0f172a", "#5b6675", "#e2e8f0"
STUDENT, TEACHER, MISS, GRAY = "#0f766e", "#b45309", "#be123c", "#64748b"
VARIABLES = {
    INK: "ink", SOFT: "soft", LINE: "line", STUDENT: "student", TEACHER: "teacher",
    MISS: "miss", GRAY: "gray",
}  # fmt: skip
"""Colors of charts, and the variables of `page/style.css` that take their place."""
WIDTH, HEIGHT = 3.4, 2.5  # inches; as wide as a phone, so that texts keep their size there
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",  # of the reader's browser
    "font.size": 9,
    "axes.titlesize": 9.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


class Chart:
    """One chart while it is drawn.

    Attributes:
        axes: Where to draw.
        svg: The chart as `<svg>`, once the block of `chart` has ended.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = Markup("")


@contextmanager
def chart(name: str, label: str, height: float = HEIGHT) -> Iterator[Chart]:
    """A chart of a phone's width.

    Args:
        name: Different for each chart of a page: ids within the SVG follow from it.
        label: The chart in words, for people who do not see it.
        height: Inches.
    """
    with plain_text(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawn = Chart(figure.subplots())
        yield drawn
        drawn.svg = _inline(figure, label)


def _inline(figure: Figure, label: str) -> Markup:
    """A figure as `<svg>` without size, ids of groups, and fixed colors."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    body = text[text.index(">", box.end()) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[\w.-]+"', "<g", body)
    body = re.sub(r"<!--.*?-->\s*|^\s+|\n", "", body, flags=re.DOTALL | re.MULTILINE)
    for color, variable in VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    # Markup: matplotlib has escaped the texts of the figure
    about = f'role="img" aria-label="{escape(label)}" viewBox="{box[1]}"'
    return Markup(f'<svg class="chart" {about}>{body}</svg>')
