"""How checks look: one line each, and a last one that concludes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from pipeline.console import stdout
from pipeline.doctor.check import Check, counted

COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def conclude(checks: Sequence[Check]) -> bool:
    """Prints the checks; returns whether a run would go through."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = Text(f"{check.verdict:<8}", COLOURS[check.verdict])
        stdout.print(verdict + Text(f"{check.name:<{width}}  {check.text}"), soft_wrap=True)
    count = Counter(check.verdict for check in checks)
    found = [counted(count[kind], kind) for kind in ("fault", "warning") if count[kind]]
    stdout.print(", ".join(found) or "nothing would stop a run", highlight=False)
    return not count["fault"]
