"""Commands that a bench measures, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def python_output(environment: dict[str, str], *arguments: str) -> str:
    """Standard output of Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ).stdout
