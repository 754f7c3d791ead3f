"""What would stop Ray is named in one line before Ray is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.execution_params import ClusterParams
from pipeline.doctor import machines
from pipeline.runtime import ray_requirements
from pipeline.runtime.compat import SOCKET
from pipeline.runtime.ray_requirements import MAX_SOCKET_BYTES, find_obstacles
from pipeline.runtime.ray_session import bypass_proxies, ray_session

START = """
import sys
from kdeov.errors import KdeovError
from pipeline.runtime.ray_session import ray_session
try:
    with ray_session(1):
        pass
except KdeovError as error:
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
    sys.exit(str(error))
"""
OPTION = "RAY_memory_usage_threshold"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, of a user without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    return tmp_path


def room() -> int:
    """Bytes of a path of TMPDIR that are left by the names of Ray's sockets."""
    return MAX_SOCKET_BYTES - len(SOCKET) - len("/ray")


def test_a_new_user_s_machine_has_no_obstacle(home: Path) -> None:
    assert list(find_obstacles()) == []
    assert list(home.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("letter", ["x", "ä"])  # two bytes
def test_a_temporary_folder_is_too_long_by_its_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, letter: str
) -> None:
    count = (room() - len("/tmp/")) // len(letter.encode())
    monkeypatch.setenv(name, f"/tmp/{letter * count}")
    assert list(find_obstacles()) == []
    monkeypatch.setenv(name, longer := f"/tmp/{letter * (count + 1)}")
    (line,) = find_obstacles()
    assert longer in line and "RAY_TMPDIR" in line and "\n" not in line


def no_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("HOME", "/dev/null")


def home_of_the_kernel(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("HOME", "/proc")


def empty_token(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").touch()


def lost_token(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))


def temporary_file(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RAY_TMPDIR", "/dev/null")


def relative_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RAY_TMPDIR", "sessions")


def empty_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("TMPDIR", "")


def without_docstrings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PYTHONOPTIMIZE", "2")


def with_strict_warnings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PYTHONWARNINGS", "default::ImportWarning,error")


def full_disk(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(ray_requirements, "MIN_FREE_BYTES", 1 << 62)


def small_container(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "pids.max").write_text("100\n", encoding="utf-8")
    patch.setattr(ray_requirements, "CGROUP_LIMITS", [str(folder / "pids.max")])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (no_home, ["/dev/null/.ray", "HOME", "RAY_AUTH_TOKEN"]),
        (home_of_the_kernel, ["/proc/.ray", "HOME"]),
        (empty_token, [".ray/auth_token", "delete it"]),
        (lost_token, ["RAY_AUTH_TOKEN_PATH", "token"]),
        (temporary_file, ["/dev/null/ray", "RAY_TMPDIR"]),
        (relative_folder, ["RAY_TMPDIR is 'sessions'", "absolute", "/tmp"]),
        (empty_folder, ["TMPDIR is ''", "absolute", "RAY_TMPDIR"]),
        (without_docstrings, ["PYTHONOPTIMIZE", "unset"]),
        (with_strict_warnings, ["PYTHONWARNINGS", "unset"]),
        (full_disk, ["/tmp/ray", "free", "RAY_TMPDIR"]),
        (small_container, ["100", "--pids-limit"]),
    ],
)
def test_an_obstacle_is_one_line_of_the_session_and_of_the_doctor(
    home: Path, monkeypatch: pytest.MonkeyPatch, complains: Any, break_it: Any, words: list[str]
) -> None:
    break_it(monkeypatch, home)
    (check,) = machines.ray(ClusterParams(mode="local"))
    assert check.verdict == "error" and all(word in check.text for word in words)
    assert machines.ray(ClusterParams(mode="inline")) == []
    with complains(*words):
        ray_requirements.require_ray_can_start()


def test_a_token_of_the_environment_needs_no_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_home(monkeypatch, home)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    assert list(find_obstacles()) == []


@pytest.mark.parametrize(
    ("limit", "variables", "words"),
    [
        ("ulimit -n 100", {}, ["100 files", "ulimit -Hn"]),
        ("ulimit -v 4000000", {}, ["4.1 GB", "ulimit -v"]),
        ("true", {"HOME": "/dev/null"}, ["/dev/null/.ray"]),
        ("true", {"TMPDIR": "/tmp/" + "x" * 60}, ["RAY_TMPDIR"]),
        ("true", {OPTION: "95%"}, [OPTION, "'95%'", "unset"]),
    ],
)
def test_ray_is_not_started_where_it_would_fail(
    home: Path, root: Path, limit: str, variables: dict[str, str], words: list[str]
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'{limit}; exec "$@"', "sh", sys.executable, "-c", START],
        cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
        encoding="utf-8")  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and all(word in line for word in words)


@pytest.mark.slow
def test_an_option_that_ray_can_read_is_no_obstacle(root: Path) -> None:
    script = (
        "from pipeline.runtime.ray_requirements import find_obstacles as f; print([*f()]);"
        "import os; os.environ['RAY_worker_niceness'] = 'low'; print([*f()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={**os.environ, OPTION: "0.9"},
        capture_output=True, text=True, timeout=120, encoding="utf-8", check=True)  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == "[]" and "RAY_worker_niceness" in second and OPTION not in second


@pytest.mark.slow
def test_an_error_of_ray_itself_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, complains: Any
) -> None:
    import ray

    assert not ray.is_initialized()
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", "no JSON")
    with complains("Ray did not start", "logs", "cluster.mode"), ray_session(1):
        raise AssertionError("Ray started")


@pytest.mark.parametrize("given", ["", "example.org", "localhost, example.org"])
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert bypass_proxies() == {}
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", given)
    found = bypass_proxies("127.0.0.2")
    assert found.keys() == {"no_proxy", "NO_PROXY"} and os.environ["no_proxy"] == found["NO_PROXY"]
    hosts = found["no_proxy"].split(",")
    assert {"127.0.0.1", "127.0.0.2", "localhost"} <= set(hosts) and len(set(hosts)) == len(hosts)
    assert ("example.org" in hosts) == ("example.org" in given)
