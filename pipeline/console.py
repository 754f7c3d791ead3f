"""Log lines, and progress bars with speed and time left."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

logger = logging.getLogger(__name__)
console = Console(stderr=True)
stdout = Console()
LOG_EVERY_S = 15.0
MAX_WIDTH = 1000  # characters of a table


def setup_logging(level: int = logging.INFO) -> None:
    """Sends log lines to standard error, coloured on a terminal and plain in a file."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, log_time_format="%X"
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for package in ("kdeov", "pipeline"):
        package_logger = logging.getLogger(package)
        package_logger.handlers = [handler]
        package_logger.setLevel(level)
        package_logger.propagate = False


def allow_every_character() -> None:
    """Lets standard output escape what its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def without_login(text: str) -> str:
    """Removes users and passwords from the addresses in a text."""
    return re.sub(r"(?<=://)[^/\s]*@|(?<=[?&])password=[^&\s]*", "", text)


def print_table(table: Table) -> None:
    """Prints a table whole: a narrow terminal wraps its lines, and no cell is cut."""
    Console(width=MAX_WIDTH).print(table)


class ProgressBar:
    """Shows how much is done; `progress` makes it."""

    def __init__(self, label: str, total: int, unit: str, bar: Progress | None):
        self._label, self._total, self._unit, self._bar = label, total, unit, bar
        self._task = bar.add_task(label, total=total, rate="") if bar else None
        self._done, self._start = 0, time.monotonic()
        self._last_log = self._start

    def update(self, count: int = 1) -> None:
        """Adds `count` to what is done."""
        self.set(self._done + count)

    def set(self, done: int) -> None:
        """Sets how many are done in all."""
        self._done = done
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:,.0f} {self._unit}/s")
        elif done and now - self._last_log >= LOG_EVERY_S:
            self._last_log = now
            left = (self._total - self._done) / rate
            logger.info(
                "%s: %d of %d, %.0f %s/s, %.0f s left",
                self._label, self._done, self._total, rate, self._unit, left,
            )  # fmt: skip


@contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[ProgressBar]:
    """A progress bar on a terminal; elsewhere a log line every now and then.

    Args:
        label: Text before the bar.
        total: Number of items.
        unit: Plural name of an item.
    """
    if not console.is_terminal:
        yield ProgressBar(label, total, unit, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield ProgressBar(label, total, unit, bar)


def printable(text: str) -> str:
    """A text from outside, escaped where it holds control characters."""
    return text if text.isprintable() else ascii(text)
