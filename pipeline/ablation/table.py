"""The outcome of an ablation as a table: in the terminal and in Markdown."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pipeline.ablation.gains import Cell, Outcome
from pipeline.console import stdout


def terminal_table(outcome: Outcome) -> Table:
    """The table for a terminal: under each mean its gain over the first variant."""
    sign = "+/-" if stdout.options.ascii_only else "±"
    table = Table(title=escape(_title(outcome, sign)), caption="\n".join(outcome.remarks) or None)
    table.add_column("variant")
    for column in outcome.ablation.metrics:
        table.add_column(escape(column), justify="right")
    for variant, cells in outcome.rows.items():
        texts = ["\n".join(filter(None, (_mean(c, sign), _gain(c)))) for c in cells.values()]
        table.add_row(escape(variant), *map(escape, texts))
    return table


def markdown_table(outcome: Outcome) -> str:
    """The table in Markdown; a gain whose interval leaves out 0 is bold."""
    columns = [_escape(column) for column in outcome.ablation.metrics]
    lines = [f"| variant | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for variant, cells in outcome.rows.items():
        texts = []
        for cell in cells.values():
            gain = _gain(cell)
            gain = f"**{gain}**" if cell.is_certain else gain
            texts.append("<br>".join(filter(None, (_mean(cell, "±"), gain))))
        lines.append(f"| {_escape(variant)} | {' | '.join(texts)} |")
    return "\n".join(
        [
            *lines,
            "",
            _title(outcome, "±", "Gains in bold: the interval leaves out 0."),
            *outcome.remarks,
        ]
    )


def _title(outcome: Outcome, sign: str, more: str = "") -> str:
    ablation = outcome.ablation
    first, count = next(iter(outcome.rows)), len(ablation.seeds)
    mean = f"Mean {sign} deviation of {count} seeds" if count > 1 else "One seed"
    below = f"{mean}; below, the gain over {first}"
    below += " and its 95% interval, paired over the test images." if _has_bounds(outcome) else "."
    return " ".join(filter(None, (ablation.question, below, more if _has_bounds(outcome) else "")))


def _has_bounds(outcome: Outcome) -> bool:
    return any(cell.bounds for cells in outcome.rows.values() for cell in cells.values())


def _mean(cell: Cell, sign: str) -> str:
    if cell.deviation is None:
        return f"{cell.mean:.3f}"
    return f"{cell.mean:.3f} {sign} {cell.deviation:.3f}"


def _gain(cell: Cell) -> str:
    if cell.gain is None:
        return ""
    if cell.bounds is None:
        return f"{cell.gain:+.3f}"
    return f"{cell.gain:+.3f} [{cell.bounds[0]:+.3f}, {cell.bounds[1]:+.3f}]"


def _escape(text: str) -> str:
    """A text as a cell of a Markdown table shows it."""
    for character in "\\`*_<>[]|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
