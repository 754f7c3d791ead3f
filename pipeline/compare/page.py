"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import jinja2

from pipeline.compare.chart import chart_of
from pipeline.compare.comparison import Comparison
from pipeline.compare.terminal import format_difference, format_value
from pipeline.storage.files import write_text

HERE = Path(__file__).parent
STYLE = HERE.parent / "report" / "page" / "style.css"


def write_page(comparison: Comparison, output: Path) -> None:
    """Writes the page.

    Raises:
        StorageError: The file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    rows = [
        {
            "label": row.label,
            "values": [format_value(value, row.is_rank) for value in (row.before, row.after)],
            "difference": format_difference(row),
            "word": row.verdict or row.word,
            "verdict": row.verdict,
        }
        for row in comparison.metrics
    ]
    page = environment.get_template("compare.html.j2").render(
        comparison=comparison,
        rows=rows,
        charts=[chart_of(title, both) for title, both in comparison.curves.items()],
        style=STYLE.read_text(encoding="utf-8"),
    )
    write_text(output, page)
