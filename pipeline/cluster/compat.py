"""Private parts of Ray that the job client needs, as read in Ray 2.60.0.

After an upgrade of Ray, read them again; `tests/pipeline/cluster/test_compat.py` says which are
gone.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

READ_IN = "2.60.0"
RAY_COMMAND = (sys.executable, "-m", "ray.scripts.scripts")
"""The `ray` command of this interpreter."""
UPLOAD_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Modules that log every file of an upload, each by a logger of its name."""


def job_client(address: str, timeout: float) -> JobSubmissionClient:
    """A job client whose requests end after `timeout` seconds; Ray's own wait without end.

    Raises:
        Exception: As `JobSubmissionClient` does.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **settings: Any) -> Any:
            return super()._do_request(*arguments, timeout=timeout, **settings)

    return Client(address)


def server_version(client: JobSubmissionClient) -> str | None:
    """The version of Ray on the cluster, None where the dashboard does not give it."""
    return client._server_ray_version


def quiet_uploads() -> None:
    """Stops Ray from logging every file of an upload."""
    for name in UPLOAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
