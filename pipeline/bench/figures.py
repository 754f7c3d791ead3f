"""Figures of a bench with their bars, as a table and as JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipeline.console import stdout
from pipeline.storage.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figure:
    """A measured value and the bar that it must clear.

    Attributes:
        name: Name of the figure.
        value: Measured value.
        bar: Promised value; None where nothing is promised.
        note: Meaning of the value in a few words, with its unit.
        at_most: Whether the bar is a ceiling; otherwise it is a floor.
    """

    name: str
    value: float
    bar: float | None
    note: str
    at_most: bool = False

    @property
    def ok(self) -> bool:
        """Whether the value clears the bar; where there is none, it does."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def measure(parts: Mapping[str, Callable[[], list[Figure]]]) -> list[Figure]:
    """Measures one part after the other, and logs its name.

    Args:
        parts: Functions that measure, by name.
    """
    figures: list[Figure] = []
    start = time.monotonic()
    for number, (part, figures_of) in enumerate(parts.items(), start=1):
        logger.info("%d of %d: %s", number, len(parts), part)
        figures += figures_of()
    logger.info("all measured in %.0f s", time.monotonic() - start)
    return figures


def figure_table(title: str, figures: Sequence[Figure]) -> Table:
    """A table with one row a figure."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for column in ("value", "bar", ""):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("meaning")
    for figure in figures:
        bar = mark = ""
        if figure.bar is not None:
            bar = f"{'≤' if figure.at_most else '≥'} {figure.bar:,g}"
            mark = "[green]ok[/]" if figure.ok else "[bold red]missed[/]"
        table.add_row(figure.name, f"{figure.value:,.4g}", bar, mark, figure.note)
    return table


def print_figures(
    title: str,
    figures: Sequence[Figure],
    json_file: Path | None,
    machine: Mapping[str, str] | None = None,
) -> bool:
    """Prints the table and writes the JSON, `{name: {"value": ..., "bar": ..., "ok": ...}}`, where
    a bar may be null.

    Args:
        title: Title of the table.
        figures: Rows of the table.
        json_file: File of the JSON; None writes none.
        machine: Names of the hardware and software, for the JSON's entry `machine`.

    Returns:
        Whether every figure clears its bar.

    Raises:
        KdeovError: The JSON cannot be written.
    """
    stdout.print(figure_table(title, figures))
    if json_file is not None:
        rows: dict[str, Mapping[str, Any]] = {
            f.name: {"value": f.value, "bar": f.bar, "ok": f.ok} for f in figures
        }
        write_json(json_file, rows | ({"machine": machine} if machine else {}))
    missed = [figure.name for figure in figures if not figure.ok]
    if missed:
        stdout.print(f"Missed: {', '.join(missed)}", soft_wrap=True, highlight=False)
    return not missed
