"""What a check says: one line that names what was found and, where that is no good, the cure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from kdeov.errors import KdeovError
from pipeline.console import stdout

Verdict = Literal["ok", "warning", "fault"]
NAMED = 3  # things that a line names before it counts


COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: What was looked at, in a word or two.
        verdict: A fault would stop a run, a warning would not.
        found: What there is.
        cure: What to do about it; empty where nothing is to be done.
    """

    name: str
    verdict: Verdict
    found: str
    cure: str = ""

    @property
    def text(self) -> str:
        """What was found and the cure."""
        return f"{self.found}; {self.cure}" if self.cure else self.found


def ok(name: str, found: str) -> Check:
    """Nothing is to be done."""
    return Check(name, "ok", found)


def warning(name: str, found: str, cure: str) -> Check:
    """A run would not stop, but may be slower or harder to rebuild than need be."""
    return Check(name, "warning", found, cure)


def fault(name: str, found: str, cure: str = "") -> Check:
    """A run would stop, now or later. The text of a `KdeovError` holds its cure already."""
    return Check(name, "fault", found, cure)


@contextmanager
def complaints(name: str, checks: list[Check]) -> Iterator[None]:
    """Turns what a person has to mend into a fault of this name."""
    try:
        yield
    except KdeovError as error:
        checks.append(fault(name, str(error)))


def listed(things: Iterable[object]) -> str:
    """The first few of them, and how many more there are."""
    names = [str(thing) for thing in things]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def counted(number: int, thing: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def print_checks(checks: Sequence[Check]) -> bool:
    """Prints the checks; returns whether a run would go through."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = Text(f"{check.verdict:<8}", COLOURS[check.verdict])
        stdout.print(verdict + Text(f"{check.name:<{width}}  {check.text}"), soft_wrap=True)
    count = Counter(check.verdict for check in checks)
    found = [counted(count[kind], kind) for kind in ("fault", "warning") if count[kind]]
    stdout.print(", ".join(found) or "nothing would stop a run", highlight=False)
    return not count["fault"]
