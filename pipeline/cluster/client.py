"""A cluster's dashboard as this project talks to it: one line where a person has to mend something,
patience where the network fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeov.errors import KdeovError
from pipeline.runtime.ray_session import set_ray_environment

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0  # of one request
QUIET_S = 60.0  # without a line of log, after which the connection is made anew: it may be dead
PATIENCE_S = 900.0  # how long a dashboard may be away while a job runs
PAUSE_S = 3.0  # between tries
NAMES_EVERY_FILE = (
    "dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk",
    "_private.runtime_env.packaging", "_private.runtime_env.working_dir",
)  # fmt: skip
LAST = 2000  # characters of log that are shown of a job that ran before we came


class Unreachable(KdeovError):
    """Nobody answers: for a job that runs, another try may help."""


class Dashboard:
    """Jobs of one cluster.

    Args:
        address: `http://HOST:8265`.

    Raises:
        KdeovError: Nobody answers there, or not a Ray like ours, or the token is not its own.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise KdeovError(
                f"cluster.address {address!r} is no address of a dashboard; give http://HOST:8265"
            )
        self._client = self._connect()

    def _connect(self) -> JobSubmissionClient:
        set_ray_environment()
        import ray
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            """One that does not wait for ever."""

            def _do_request(self, *arguments: Any, **settings: Any) -> Any:
                return super()._do_request(*arguments, timeout=TIMEOUT_S, **settings)

        for name in NAMES_EVERY_FILE:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        try:
            with self._told():
                client = Client(self.address)
        except KdeovError:
            raise
        # its answer is not that of a Ray
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise KdeovError(
                f"{self.address} is not the dashboard of a Ray cluster; see cluster.address in "
                "params.yaml"
            ) from error
        there = getattr(client, "_server_ray_version", None)
        if there is not None and there != ray.__version__:
            raise KdeovError(
                f"Ray is {ray.__version__} here and {there} on the cluster at {self.address}; "
                "install the same one (requirements.lock) on both"
            )
        return client

    def info(self, job: str) -> JobDetails | None:
        """What the cluster knows of a job; None where it knows none of this id."""
        try:
            with self._told():
                return self._client.get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error):
                return None
            raise

    def submit(self, job: str, command: str, code: Path, environment: dict[str, str]) -> None:
        """Starts a job, unless one of this id was started.

        Args:
            job: Its id.
            command: What its driver runs.
            code: Folder that travels.
            environment: Variables of every process of the job.
        """
        try:
            with self._told():
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job,
                    runtime_env={"working_dir": str(code), "env_vars": environment},
                )
        except (RuntimeError, Unreachable) as error:
            if self.info(job) is None:  # or someone else was as quick as we
                reason = str(error).strip().splitlines()[-1][:300]
                raise KdeovError(f"{self.address} refused the job {job}: {reason}") from error

    def stop(self, job: str) -> None:
        """Ends a job, if it runs, and waits until it has ended."""
        end = time.monotonic() + TIMEOUT_S
        on_progress = False
        while (info := self.info(job)) and not info.status.is_terminal():
            if not on_progress:
                with self._told():
                    self._client.stop_job(job)
                on_progress = True
            if time.monotonic() > end:
                raise KdeovError(f"{job} does not stop; look at {self.address}")
            time.sleep(0.5)

    def log(self, job: str) -> str:
        """All that a job has written."""
        with self._told():
            return self._client.get_job_logs(job)

    def follow(self, job: str, from_start: bool) -> JobDetails | None:
        """Shows the log of a job on standard error until the job ends. A connection that is lost is
        made anew, and nothing is shown twice.

        Args:
            job: Its id.
            from_start: From its first line; else what is new, and some lines before that.

        Returns:
            What became of it; None where the cluster does not know it any more.
        """
        shown = LogTail(0) if from_start else None
        lost: float | None = None
        while True:
            try:
                shown = shown or LogTail(max(0, len(self.log(job)) - LAST))
                asyncio.run(self._tail(job, shown))
                info = self.info(job)
                if lost is not None:
                    logger.info("connected again")
                    lost = None
                if info is None:
                    return None
                if info.status.is_terminal():
                    shown.begin()
                    shown.show(self.log(job))  # what came after the connection was closed
                    return info
                time.sleep(0.5)
            except Unreachable as error:
                if lost is None:
                    lost = time.monotonic()
                    logger.warning("the connection is lost (%s); the job goes on; trying", error)
                if time.monotonic() - lost > PATIENCE_S:
                    raise KdeovError(
                        f"{error}; {job} goes on where it is, and `dvc repro` finds it again"
                    ) from error
                time.sleep(PAUSE_S)

    async def _tail(self, job: str, shown: LogTail) -> None:
        import aiohttp

        shown.begin()
        lines = self._client.tail_job_logs(job).__aiter__()
        try:
            while True:
                shown.show(await asyncio.wait_for(lines.__anext__(), QUIET_S))
        except (StopAsyncIteration, asyncio.TimeoutError):
            return
        except aiohttp.WSServerHandshakeError as error:
            if error.status >= 500:
                raise Unreachable(f"{self.address} answers {error.status}") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise Unreachable(f"{self.address}: {type(error).__name__}") from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What a person has to mend, in one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            if "Forbidden" in str(error):
                what = "refuses this token: it is of another cluster, or has expired"
            else:
                what = "asks for a token, and there is none here"
            raise KdeovError(
                f"{self.address} {what}; put the cluster's into ~/.ray/auth_token, or name its "
                "file in RAY_AUTH_TOKEN_PATH"
            ) from error
        except (requests.JSONDecodeError, requests.HTTPError):  # someone answers, but no Ray
            raise
        except (requests.RequestException, ConnectionError) as error:
            raise Unreachable(
                f"nobody answers at {self.address}; is the cluster up, and cluster.address right?"
            ) from error
        except RuntimeError as error:  # Ray's own for all that is no success
            if "status code 5" in str(error):
                reason = str(error).strip().splitlines()[-1][:200]
                raise Unreachable(f"{self.address} is in trouble: {reason}") from error
            raise


class LogTail:
    """A log on standard error, of which each connection sends the beginning again.

    Args:
        characters: That are to be left out.
    """

    def __init__(self, characters: int) -> None:
        self._shown, self._place = characters, 0

    def begin(self) -> None:
        """A new connection."""
        self._place = 0

    def show(self, text: str) -> None:
        """What a connection sends next."""
        new = text[max(0, self._shown - self._place) :]
        self._place += len(text)
        self._shown = max(self._shown, self._place)
        if new:
            sys.stderr.write(new)
            sys.stderr.flush()
