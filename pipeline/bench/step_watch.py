"""When training steps end, seen from outside: the loop writes a line a step to its log.

The clock is that of the file system, so a watcher that is late reads the right time all the same;
training is not slowed down and knows nothing of it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from pipeline.step_log import StepLog

POLL = 0.05  # seconds; two steps within one count as ending together


class StepWatch:
    """Notes the end of every step of every rank while its context is open.

    Args:
        run: Folder of the training run.
        ranks: How many there are.

    Attributes:
        ends: Of each rank, the times at which its steps ended; seconds since 1970.
    """

    def __init__(self, run: Path, ranks: int) -> None:
        self.logs = [StepLog(run / "steps", rank).path for rank in range(ranks)]
        self.ends: list[list[float]] = [[] for _ in range(ranks)]
        self._sizes: dict[Path, int] = {}
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StepWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def taken(self) -> list[int]:
        """Steps that each rank has ended."""
        return [len(ends) for ends in self.ends]

    def wait(self, steps: list[int], seconds: float) -> bool:
        """Waits until every rank has ended more steps than stated.

        Args:
            steps: Of each rank.
            seconds: At most.

        Returns:
            Whether they have.
        """

        def all_have() -> bool:
            return all(now > then for now, then in zip(self.taken, steps, strict=True))

        with self._news:
            return self._news.wait_for(all_have, seconds)

    def _watch(self) -> None:
        while not self._stop.wait(POLL):
            self._look()
        self._look()

    def _look(self) -> None:
        for log, ends in zip(self.logs, self.ends, strict=True):
            if not log.exists():
                continue
            about = log.stat()
            if about.st_size == self._sizes.get(log):
                continue
            lines = log.read_bytes().count(b"\n")
            self._sizes[log] = about.st_size
            with self._news:
                ends += [about.st_mtime] * (lines - len(ends))
                self._news.notify_all()
