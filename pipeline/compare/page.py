"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import jinja2

from kdeov.errors import ConfigError
from pipeline.compare.chart import chart_of
from pipeline.compare.comparison import Comparison
from pipeline.compare.terminal import format_difference, format_value
from pipeline.storage.files import write_text

HERE = Path(__file__).parent
MARK = '<main class="compare">'  # of every page, older ones too
STYLE = HERE.parent / "report" / "page" / "style.css"


def write_page(comparison: Comparison, output: Path) -> None:
    """Writes the page, or replaces one.

    Raises:
        ConfigError: There is a file that is no such page.
        StorageError: The file cannot be written.
    """
    if output.exists() and not _is_own(output):
        raise ConfigError(f"{output} exists and is no page of `kdeov compare`; give another -o")
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


def _is_own(path: Path) -> bool:
    try:
        return MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
