"""Commands in checkouts that run jobs on a cluster, and what became of the jobs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from functools import partial
from typing import Any

import psutil

from pipeline.runtime.job import JOB
from tests.helpers.checkouts import Checkout
from tests.helpers.waiting import wait_for


class Command:
    """A command that runs in a checkout; `output` is what it has printed so far."""

    def __init__(self, checkout: Checkout, *words: str) -> None:
        self._log = checkout.path.parent / f"log-{time.monotonic_ns()}"
        with open(self._log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                words, cwd=checkout.path, env=checkout.environment, stdout=file, stderr=file,
                # Ctrl-C reaches it also where these tests run in the background
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for_output(self, words: str, seconds: float = 180) -> None:
        """Waits until its output has some words."""
        wait_for(lambda: words in self.output or self.process.poll() is not None, seconds)
        assert words in self.output, self.output

    def kill(self) -> None:
        """Kills it with all processes that it started, as a power failure does."""
        parent = psutil.Process(self.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)


def jobs(checkout: Checkout, stage: str) -> list[str]:
    """Ids of the jobs of a stage that a checkout has submitted."""
    return sorted(path.stem for path in checkout.path.glob(f"work/jobs/kdeov-{stage}-*.json"))


def driver_of(job: str) -> psutil.Process:
    """The process of a job that runs its stage."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if words[1:2] == ["-m"] and process.environ().get(JOB, "").endswith(f"/{job}"):
                return process
    raise AssertionError(f"{job} has no driver")


def read(checkout: Checkout, name: str) -> Any:
    return json.loads((checkout.path / name).read_text(encoding="utf-8"))
