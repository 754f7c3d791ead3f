"""The private parts of Ray that `pipeline/cluster/compat.py` uses still exist."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from pipeline.cluster.compat import RAY_COMMAND, READ_IN, UPLOAD_LOGGERS

CHANGED = f"pipeline/cluster/compat.py was read in Ray {READ_IN}, and {ray.__version__} lacks "


def test_ray_is_the_version_that_was_read(root: Path) -> None:
    (locked,) = re.findall(
        r"^ray==(.+)$", (root / "requirements.lock").read_text(encoding="utf-8"), re.M
    )
    assert locked == READ_IN, "requirements.lock has another Ray: read pipeline/cluster/compat.py"


def test_a_request_of_the_job_client_takes_a_timeout() -> None:
    method = getattr(JobSubmissionClient, "_do_request", None)
    assert method is not None, f"{CHANGED}JobSubmissionClient._do_request"
    kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD in kinds, f"{CHANGED}**kwargs of _do_request"


def test_the_job_client_keeps_the_version_of_the_cluster() -> None:
    code = "".join(inspect.getsource(base) for base in JobSubmissionClient.__mro__[:-1])
    assert "self._server_ray_version" in code, f"{CHANGED}_server_ray_version"


@pytest.mark.parametrize("name", UPLOAD_LOGGERS)
def test_a_module_that_logs_uploads_has_a_logger_of_its_name(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError:
        pytest.fail(f"{CHANGED}the module {name}")
    assert "getLogger(__name__)" in inspect.getsource(module), f"{CHANGED}the logger {name}"


@pytest.mark.slow
def test_the_ray_command_runs_as_a_module() -> None:
    shown = subprocess.run(
        [*RAY_COMMAND, "--version"], capture_output=True, text=True, encoding="utf-8"
    )
    assert READ_IN in shown.stdout, f"{CHANGED}{RAY_COMMAND[-1]}: {shown.stderr}"
