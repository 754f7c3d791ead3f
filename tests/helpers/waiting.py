"""Waiting for events, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(
    condition: Callable[[], object], log: Path | None = None, seconds: float = 240
) -> None:
    """Polls a condition until it is true; fails after so many seconds, with the log if given."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (
            log.read_text(encoding="utf-8") if log else f"it did not happen within {seconds:.0f} s"
        )
        time.sleep(0.05)
