"""The result of a check: one line with the finding and, where something is wrong, the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from kdeov.errors import KdeovError
from pipeline.console import stdout

Verdict = Literal["ok", "warning", "error"]
MAX_NAMES_SHOWN = 3
COLORS = {"ok": "green", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: Subject of the check, in a word or two; a key of `params.yaml` where there is one.
        verdict: An error would stop a run, a warning would not.
        finding: Facts: what is there or what is wrong, and where.
        fix: Remedy; empty where none is needed, or where the finding names it.
    """

    name: str
    verdict: Verdict
    finding: str
    fix: str = ""

    @property
    def text(self) -> str:
        """Finding and fix."""
        return f"{self.finding}; {self.fix}" if self.fix else self.finding


def ok(name: str, finding: str) -> Check:
    """A check that passed."""
    return Check(name, "ok", finding)


def warning(name: str, finding: str, fix: str) -> Check:
    """A check whose finding makes a run slower, or harder to rebuild, but does not stop it."""
    return Check(name, "warning", finding, fix)


def error(name: str, finding: str, fix: str = "") -> Check:
    """A check whose finding stops a run, at once or later. The text of a `KdeovError` has its fix
    already.
    """
    return Check(name, "error", finding, fix)


@contextmanager
def report_errors(name: str, checks: list[Check]) -> Iterator[None]:
    """Turns a `KdeovError` into a failed check of this name."""
    try:
        yield
    except KdeovError as wrong:
        checks.append(error(name, str(wrong)))


def errors(checks: Iterable[Check]) -> list[Check]:
    """The checks that would stop a run."""
    return [check for check in checks if check.verdict == "error"]


def first_few(things: Iterable[object]) -> str:
    """The first names, and how many more there are."""
    names = [str(thing) for thing in things]
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"{', '.join(names[:MAX_NAMES_SHOWN])}{more}"


def quantity(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_checks(checks: Sequence[Check]) -> bool:
    """Prints the checks; returns whether none of them is an error."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = Text(f"{check.verdict:<8}", COLORS[check.verdict])
        stdout.print(verdict + Text(f"{check.name:<{width}}  {check.text}"), soft_wrap=True)
    count = Counter(check.verdict for check in checks)
    totals = [quantity(count[kind], kind) for kind in ("error", "warning") if count[kind]]
    stdout.print(", ".join(totals) or "nothing would stop a run", highlight=False)
    return not count["error"]
