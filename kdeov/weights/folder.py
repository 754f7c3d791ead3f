"""Folders of saved models: whole, or as they were before."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, StorageError

PARTIAL = ".partial-"
LONGEST = 255  # bytes of a name, on the usual file systems
STALE_S = 3600.0  # seconds; a save that is in progress is younger


def user_path(path: Any) -> Path:
    """A path as callers give it, with `~` as the home folder.

    Raises:
        ConfigError: Something that is no path.
    """
    if not isinstance(path, str | os.PathLike) or path == "":  # which Path takes for here
        raise ConfigError(f"{path!r} is no path; give a text or a pathlib.Path")
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path raises for an unknown `~user`)


def model_folder(path: Any) -> Path:
    """The folder of a saved model as callers give it (see `user_path`).

    Raises:
        ConfigError: Something that is no path, or one that no disk can hold.
    """
    folder = user_path(path)
    if "\0" in str(folder) or any(len(os.fsencode(part)) > LONGEST for part in folder.parts):
        raise ConfigError(
            f"{str(folder)[:80]!r} is no path: a name holds a null character or is longer than "
            f"{LONGEST} bytes; give a shorter one"
        )
    return folder


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
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        targets = [folder / file.relative_to(partial) for file in files]
        for target in targets:  # before the first one is replaced
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{target.name} is a folder")
        for file, target in zip(files, targets, strict=True):
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
