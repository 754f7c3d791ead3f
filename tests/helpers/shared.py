"""Folders that take long to make, shared by all lanes of one `make test`."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

VARIABLE = "KDEOV_TESTS_SHARED"
"""Names the folder of a `make test`, which deletes it at the end."""
TIMEOUT_S = 1600.0


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first lane that needs it makes, and the others wait for. Copy it.

    Args:
        name: Of the folder.
        make: Makes the folder that it is given, whose parent exists.
    """
    folder = _shared() / name
    with FileLock(f"{folder}.lock", timeout=TIMEOUT_S):
        if not (_shared() / f"{name}.made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (_shared() / f"{name}.made").touch()
    return folder


@cache
def _shared() -> Path:
    """The folder of the `make test`; without one, a folder of this process."""
    if found := os.environ.get(VARIABLE):
        return Path(found)
    own = Path(tempfile.mkdtemp(prefix="kdeov-tests-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own
