"""What a check says: one line that names what was found and, where that is no good, the cure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from kdeov.errors import KdeovError

Verdict = Literal["ok", "warning", "fault"]
NAMED = 3  # things that a line names before it counts


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
