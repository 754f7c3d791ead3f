"""What Ray needs of a machine to start. Ray itself answers a lack with a stack trace, or with
minutes of silence.
"""

from __future__ import annotations

import getpass
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from kdeov.errors import ConfigError
from pipeline.runtime.compat import RAY_ENVIRONMENT, SOCKET, temporary_folder
from pipeline.storage.files import existing, exists

MAX_SOCKET_BYTES = 107 if os.uname().sysname == "Linux" else 103  # of a path, sun_path of unix(7)
MIN_FREE_BYTES = 200_000_000  # logs, and objects where there is little shared memory
MIN_OPEN_FILES = 512  # of a process; Ray raises the soft limit itself
MIN_ADDRESS_SPACE = 8_000_000_000  # bytes of a process, most of them never touched
MIN_THREADS = 1000  # of a session's processes: 430, and those of workers
OPTION = re.compile("RAY_[a-z][a-z0-9_]*")  # of Ray's core; the others are Python's
CGROUP_LIMITS = ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max")


def require_ray_can_start(sessions: Path | None = None) -> None:
    """Refuses to start Ray where it would fail.

    Args:
        sessions: Folder of Ray's sessions; None is the one that Ray chooses.

    Raises:
        ConfigError: Something that Ray needs is missing.
    """
    if found := next(find_obstacles(sessions), None):
        raise ConfigError(f"Ray cannot start here: {found}")


def require_ray_can_be_imported() -> None:
    """Refuses to import Ray where that would end this process without a word.

    Raises:
        ConfigError: A variable has a value that Ray cannot read.
    """
    if found := next(_variables(), None):
        raise ConfigError(f"Ray cannot start here: {found}")


def find_obstacles(sessions: Path | None = None) -> Iterator[str]:
    """What would stop Ray on this machine, and the fix; one line each.

    Args:
        sessions: See `require_ray_can_start`.
    """
    yield from _sessions(sessions or temporary_folder() / "ray")
    yield from _token()
    yield from _python()
    yield from _variables()
    yield from _limits()
    yield from _ports()


def _sessions(folder: Path) -> Iterator[str]:
    room = MAX_SOCKET_BYTES - len(os.fsencode(SOCKET))
    length = len(os.fsencode(folder))
    fix = "set RAY_TMPDIR to another folder"
    if not folder.is_absolute():
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        yield (
            f"{name} is {os.environ.get(name, str(folder))!r}, no absolute path, and Ray's "
            "processes run in other folders; unset it, or set RAY_TMPDIR to /tmp for example"
        )
    elif length > room:
        yield (
            f"{folder}: a path of {length} bytes, and the names of Ray's sockets leave room for "
            f"{room}; set RAY_TMPDIR to a shorter one, /tmp for example"
        )
    elif reason := _cannot_write(folder):
        yield f"{folder}: {reason}, and Ray keeps sockets and logs there; {fix}"
    elif (free := psutil.disk_usage(str(existing(folder))).free) < MIN_FREE_BYTES:
        yield (
            f"{folder}: {free / 1e6:,.0f} MB are free, and Ray's logs and objects need "
            f"{MIN_FREE_BYTES / 1e6:,.0f}; free space, or {fix}"
        )


def _token() -> Iterator[str]:
    """Ray makes its token in the home folder, unless there is one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    if given := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        if not _has_text(Path(given)):
            yield f"RAY_AUTH_TOKEN_PATH names {given}, which holds no token; fix or unset it"
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # neither HOME nor an entry of passwd
        yield "this user has no home folder, and Ray keeps its token there; set HOME"
        return
    if exists(path) and not _has_text(path):
        yield f"{path}: holds no token that can be read; delete it, and Ray makes another one"
    elif not exists(path) and (reason := _cannot_write(path.parent)):
        yield (
            f"{path.parent}: {reason}, and Ray makes its token there; set HOME to a folder that "
            "can be written, or RAY_AUTH_TOKEN to a secret of 32 bytes or more"
        )


def _python() -> Iterator[str]:
    """What the environment asks of every Python, which Ray's own processes do not survive."""
    if os.environ.get("PYTHONOPTIMIZE", "") not in ("", "0", "1"):
        yield "PYTHONOPTIMIZE strips the docstrings that Ray adds to when it starts; unset it"
    if "error" in os.environ.get("PYTHONWARNINGS", "").replace(" ", "").split(","):
        yield "PYTHONWARNINGS makes every warning an error, and Ray starts with some; unset it"


def _variables() -> Iterator[str]:
    """Values of the user that Ray's core cannot read, for which importing it is a segmentation
    fault: `RAY_memory_usage_threshold=95%`.
    """
    if "ray" in sys.modules:  # it has read them
        return
    given = [name for name in os.environ if OPTION.fullmatch(name)]
    given = [name for name in given if os.environ[name] != RAY_ENVIRONMENT.get(name)]
    for name in sorted(given):  # each alone: about a second, for those few who set some
        environment = {key: value for key, value in os.environ.items() if key not in given}
        environment[name] = os.environ[name]
        command = [sys.executable, "-c", "import ray._raylet"]
        if subprocess.run(command, env=environment, capture_output=True).returncode < 0:
            yield f"{name} is {os.environ[name]!r}, which Ray cannot read; correct or unset it"


def _limits() -> Iterator[str]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < MIN_OPEN_FILES:
        yield (
            f"a process may open {files} files, and Ray needs {MIN_OPEN_FILES}; raise it with "
            "`ulimit -Hn`, or for containers with --ulimit nofile=8192"
        )
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < MIN_ADDRESS_SPACE:
        yield (
            f"a process may have {space / 1e9:.1f} GB of addresses, and Ray needs "
            f"{MIN_ADDRESS_SPACE / 1e9:.0f}; raise it with `ulimit -v unlimited`"
        )
    threads = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and threads != resource.RLIM_INFINITY and threads < MIN_THREADS:  # root has none
        yield (
            f"{getpass.getuser()} may have {threads} processes and threads, and Ray needs about "
            f"{MIN_THREADS}; raise it with `ulimit -u`"
        )
    for name in CGROUP_LIMITS:
        text = Path(name).read_text(encoding="utf-8") if Path(name).is_file() else "max"
        if text.strip().isdigit() and int(text) < MIN_THREADS:
            yield (
                f"this container may have {int(text)} processes and threads, and Ray needs about "
                f"{MIN_THREADS}; start it with --pids-limit={2 * MIN_THREADS} or without a limit"
            )


def _ports() -> Iterator[str]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        yield (
            f"no port of 127.0.0.1 can be used ({error.strerror}), and Ray's processes talk "
            "through some; end what holds them, or allow sockets where this process runs"
        )


def _cannot_write(folder: Path) -> str:
    """Why no file can be written in a folder, or in the one that it will be made in; or nothing."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)):
            return ""
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"


def _has_text(path: Path) -> bool:
    try:
        return bool(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False
