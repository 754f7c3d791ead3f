"""The jobs of a Ray cluster, by way of its dashboard.

A mistake of the user becomes one `KdeovError`; where the network fails while a job runs, the client
connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kdeov.errors import ConfigError, StorageError
from pipeline.cluster.compat import job_client, quiet_uploads, server_version
from pipeline.runtime.ray_session import bypass_proxies, set_ray_environment

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 30.0
LOG_SILENCE_S = 60.0  # without a log line, the connection may be dead, and is made again
RECONNECT_LIMIT_S = 900.0  # how long a dashboard may be away while a job runs
RETRY_INTERVAL_S = 3.0
TAIL_CHARACTERS = 2000  # of the log of a job that ran before `follow`


class Unreachable(StorageError):
    """The dashboard does not answer; while a job runs, another try may help."""


class Dashboard:
    """Jobs of one cluster.

    Args:
        address: `http://HOST:8265`.

    Raises:
        ConfigError: The address is no dashboard of a Ray of this version, or refuses the token.
        StorageError: The dashboard does not answer.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                f"cluster.address {address!r} is no address of a dashboard; give http://HOST:8265"
            )
        self._client = self._connect()

    def _connect(self) -> JobSubmissionClient:
        set_ray_environment()
        bypass_proxies()
        import ray

        quiet_uploads()
        try:
            with self._user_errors():
                client = job_client(self.address, REQUEST_TIMEOUT_S)
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(
                f"{self.address} is not the dashboard of a Ray cluster; see cluster.address in "
                "params.yaml"
            ) from error
        version = server_version(client)
        if version is not None and version != ray.__version__:
            raise ConfigError(
                f"Ray is {ray.__version__} here and {version} on the cluster at {self.address}; "
                "install the same version (requirements.lock) on both"
            )
        return client

    def info(self, job: str) -> JobDetails | None:
        """State of a job; None where the cluster knows no job of this id."""
        try:
            with self._user_errors():
                return self._client.get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error):
                return None
            raise

    def submit(self, job: str, command: str, code: Path, environment: dict[str, str]) -> None:
        """Submits a job, unless one of this id exists.

        Args:
            job: Its id.
            command: Shell command of its driver.
            code: Folder to upload as the working directory.
            environment: Variables of every process of the job.

        Raises:
            ConfigError: The cluster refused the job.
            Unreachable: It does not take jobs now, as a head that has just started.
        """
        try:
            with self._user_errors():
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job,
                    runtime_env={"working_dir": str(code), "env_vars": environment},
                )
        except (RuntimeError, Unreachable) as error:
            if self.info(job) is None:  # else another process has submitted it meanwhile
                if isinstance(error, Unreachable):
                    raise
                reason = str(error).strip().splitlines()[-1][:300]
                raise ConfigError(f"{self.address} refused the job {job}: {reason}") from error

    def stop(self, job: str) -> None:
        """Stops a job, if it runs, and waits until it has ended."""
        end = time.monotonic() + REQUEST_TIMEOUT_S
        asked = False
        while (info := self.info(job)) and not info.status.is_terminal():
            if not asked:
                with self._user_errors():
                    self._client.stop_job(job)
                asked = True
            if time.monotonic() > end:
                raise StorageError(f"{job} does not stop; look at {self.address}")
            time.sleep(0.5)

    def log(self, job: str) -> str:
        """The log of a job so far."""
        with self._user_errors():
            return self._client.get_job_logs(job)

    def follow(self, job: str, from_start: bool) -> JobDetails | None:
        """Writes the log of a job to standard error until the job ends. A lost connection is made
        again, and no line is written twice.

        Args:
            job: Its id.
            from_start: Whether to write the whole log; else its last lines and what comes.

        Returns:
            The job's end; None where the cluster has forgotten the job.

        Raises:
            StorageError: The dashboard was away for too long.
        """
        tail = LogTail(0) if from_start else None
        lost: float | None = None
        while True:
            try:
                tail = tail or LogTail(max(0, len(self.log(job)) - TAIL_CHARACTERS))
                asyncio.run(self._tail(job, tail))
                info = self.info(job)
                if lost is not None:
                    logger.info("connected again")
                    lost = None
                if info is None:
                    return None
                if info.status.is_terminal():
                    tail.begin()
                    tail.write(self.log(job))  # lines written after the connection closed
                    return info
                time.sleep(0.5)
            except Unreachable as error:
                if lost is None:
                    lost = time.monotonic()
                    logger.warning("lost the connection (%s); the job goes on; retrying", error)
                if time.monotonic() - lost > RECONNECT_LIMIT_S:
                    raise StorageError(
                        f"{error}; {job} goes on there, and `dvc repro` finds it again"
                    ) from error
                time.sleep(RETRY_INTERVAL_S)

    async def _tail(self, job: str, tail: LogTail) -> None:
        import aiohttp

        tail.begin()
        lines = self._client.tail_job_logs(job).__aiter__()
        try:
            while True:
                tail.write(await asyncio.wait_for(lines.__anext__(), LOG_SILENCE_S))
        except (TimeoutError, StopAsyncIteration):
            return
        except aiohttp.WSServerHandshakeError as error:
            if error.status >= 500:
                raise Unreachable(f"{self.address} answers {error.status}") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise Unreachable(f"{self.address}: {type(error).__name__}") from error

    @contextlib.contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turns what Ray and requests raise into a `KdeovError` where the user can fix it."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            if "Forbidden" in str(error):
                what = "refuses this token, of another cluster or expired"
            else:
                what = "asks for a token, and none is set here"
            raise ConfigError(
                f"{self.address} {what}; put the cluster's into ~/.ray/auth_token, or name its "
                "file in RAY_AUTH_TOKEN_PATH"
            ) from error
        except (requests.JSONDecodeError, requests.HTTPError):  # a server that is no Ray
            raise
        except (requests.RequestException, ConnectionError) as error:
            raise Unreachable(
                f"no answer from {self.address}{_by_proxy(self.address)}; is the cluster up, and "
                "cluster.address right?"
            ) from error
        except RuntimeError as error:  # Ray raises it for every status but 200
            if "status code 5" in str(error):
                reason = str(error).strip().splitlines()[-1][:200]
                where = f"{self.address}{_by_proxy(self.address)}"
                raise Unreachable(f"{where} failed: {reason}") from error
            raise


def _by_proxy(address: str) -> str:
    """Names the proxy of the environment that stands before an address, if one does."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(host):
        return ""
    return f" by the proxy of {parts.scheme}_proxy (add {host} to no_proxy to go around it)"


class LogTail:
    """Writes a log to standard error once, though each connection sends it from the start.

    Args:
        skip: Characters at the start of the log that are not written.
    """

    def __init__(self, skip: int) -> None:
        self._written, self._received = skip, 0

    def begin(self) -> None:
        """Starts a new connection."""
        self._received = 0

    def write(self, text: str) -> None:
        """Writes what is new in the next piece of the connection."""
        new = text[max(0, self._written - self._received) :]
        self._received += len(text)
        self._written = max(self._written, self._received)
        if new:
            sys.stderr.write(new)
            sys.stderr.flush()
