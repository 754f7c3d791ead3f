"""Results of a command on standard output, errors of single images on standard error."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import typer

from kdeov.errors import ConfigError, DataError, one_line

EXIT_SOME_FAILED = 2  # some images could not be read, the others were answered


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    CSV = "csv"

    @classmethod
    def of(cls, as_json: bool, as_csv: bool) -> Format:
        """The format that flags choose.

        Raises:
            ConfigError: Both are given.
        """
        if as_json and as_csv:
            raise ConfigError("--json and --csv exclude each other; give one")
        return cls.JSON if as_json else cls.CSV if as_csv else cls.TEXT


class Errors:
    """Counts and prints the errors of single images."""

    def __init__(self, command: str):
        self._command, self.count = command, 0

    def add(self, error: DataError) -> None:
        """Prints an error in one line on standard error."""
        self.count += 1
        typer.echo(f"kdeov {self._command}: {one_line(str(error))}", err=True)

    def exit(self) -> None:
        """Exits with status 2 if there was an error."""
        if self.count:
            raise typer.Exit(EXIT_SOME_FAILED)


def print_ranking(path: Path, ranking: Sequence[tuple[str, float]], form: Format) -> None:
    """Prints labels of an image with their probabilities, best first."""
    if form is Format.TEXT:
        shown = ", ".join(f"{one_line(label)} {value:.3f}" for label, value in ranking)
        typer.echo(f"{one_line(str(path))}: {shown}")
    elif form is Format.JSON:
        labels = [{"label": label, "probability": round(value, 6)} for label, value in ranking]
        typer.echo(json.dumps({"image": str(path), "labels": labels}))
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for rank, (label, value) in enumerate(ranking, 1):
            writer.writerow([path, rank, label, f"{value:.6f}"])


def print_csv_header() -> None:
    """Prints the header of `print_ranking`'s CSV."""
    typer.echo("image,rank,label,probability")


@contextmanager
def progress_on_terminal(
    label: str, total: int | None = None, lines: bool = False
) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where that is a terminal; nothing elsewhere.

    Args:
        label: Text before the bar.
        total: Number of images; None where it is unknown.
        lines: Whether the command prints lines meanwhile: then standard output must be no terminal.

    Yields:
        A function that counts an image.
    """
    if not sys.stderr.isatty() or (lines and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.console import console

    columns = (
        TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.completed:,} images"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
