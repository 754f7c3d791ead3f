"""Folders of saved models: whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, StorageError

PARTIAL = ".partial-"
STALE_S = 3600.0  # seconds; a save that is in progress is younger


def user_path(path: Any) -> Path:
    """A path as callers give it, with `~` as the home folder.

    Raises:
        ConfigError: Something that is no path.
    """
    if not isinstance(path, str | os.PathLike) or path == "":  # which Path takes for here
        raise ConfigError(f"{path!r} is no path; give a text or a pathlib.Path")
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path raises for an unknown `~user`)


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A folder for new files, which move into `folder` when the block ends well. Until then the
    files in `folder` stay as they were; those that are not written again stay for good.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    created = not folder.exists()
    # all ranks of a training may save into one folder at once
    partial = folder / f"{PARTIAL}{uuid.uuid4().hex[:12]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in sorted(path for path in partial.rglob("*") if path.is_file()):
            target = folder / file.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        for left in folder.glob(f"{PARTIAL}*"):  # by a killed process
            with contextlib.suppress(FileNotFoundError):  # its own process has removed it
                if time.time() - left.stat().st_mtime > STALE_S:
                    shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror or error}), its files are as before; "
            "free space or fix the folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):  # it holds files, or was never made
                folder.rmdir()
