"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pipeline.compare.comparison import Comparison, MetricRow
from pipeline.console import print_table, stdout

BARS = "▁▂▃▄▅▆▇█"
COLORS = {"better": "green", "worse": "red", "even": "dim"}
WIDTH = 32  # characters of a curve


def print_comparison(comparison: Comparison) -> None:
    """Prints params that differ, metrics and curves."""
    print_table(_metrics(comparison))
    if comparison.params:
        print_table(_params(comparison))
    else:
        stdout.print("No param differs.")
    if comparison.curves:
        print_table(_curves(comparison))
    for remark in comparison.remarks:
        stdout.print(escape(remark), soft_wrap=True, highlight=False)


def format_value(value: float | None, is_rank: bool) -> str:
    """A metric; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if is_rank else f"{value:.3f}"


def format_difference(row: MetricRow) -> str:
    """The difference of a metric with its interval."""
    if row.difference is None:
        return ""
    form = "+.0f" if row.is_rank else "+.3f"
    text = format(row.difference, form)
    if row.bounds is None:
        return text
    return f"{text} [{row.bounds[0]:{form}}, {row.bounds[1]:{form}}]"


def _metrics(comparison: Comparison) -> Table:
    table = Table(title="Metrics of the student, and the difference with its 95% interval")
    table.add_column("test split")
    for name in (comparison.before, comparison.after, "difference", ""):
        table.add_column(escape(name), justify="right")
    for row in comparison.metrics:
        word = row.verdict or row.word or ""
        style = COLORS.get(word, "yellow")
        values = (format_value(value, row.is_rank) for value in (row.before, row.after))
        table.add_row(row.label, *values, escape(format_difference(row)), f"[{style}]{word}[/]")
    return table


def _params(comparison: Comparison) -> Table:
    table = Table(title="Params that differ")
    for name in ("param", comparison.before, comparison.after):
        table.add_column(escape(name), overflow="fold")
    for row in comparison.params:
        table.add_row(*map(escape, (row.name, row.before, row.after)))
    return table


def _curves(comparison: Comparison) -> Table:
    table = Table(title="Curves by epoch, on one scale for both, and their last value")
    table.add_column("curve")
    for name in (comparison.before, comparison.after):
        table.add_column(escape(name))
    for key, both in comparison.curves.items():
        known = [value for values in both for value in values]
        cells = [
            f"{_line(values, min(known), max(known))} {values[-1]:.4g}" if values else "-"
            for values in both
        ]
        table.add_row(escape(key), *cells)
    return table


def _line(values: Sequence[float], low: float, high: float) -> str:
    """A curve as bars of eight heights; empty on a stream that knows ASCII alone."""
    if stdout.options.ascii_only:
        return ""
    step = max(1, -(-len(values) // WIDTH))
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    return "".join(BARS[round((value - low) * scale)] for value in values[::step])
