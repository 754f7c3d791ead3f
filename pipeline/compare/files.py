"""The files of a run: in the workspace, in a commit and DVC's cache, or in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kdeov.errors import DataError
from pipeline.compare.git import git_file

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

OUTPUTS = "out/"  # what DVC keeps; git has the rest


class RunFiles(Protocol):
    """The files of a run, by their path in a checkout.

    Attributes:
        label: What people call the run.
    """

    @property
    def label(self) -> str: ...

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if the run has no such file here."""

    def where(self, path: str) -> str:
        """The address of a file, for errors."""


@dataclass(frozen=True)
class WorkspaceFiles:
    """The files of a checkout as they are now.

    Attributes:
        root: Folder of the checkout.
        label: What people call the run.
    """

    root: Path
    label: str = "workspace"

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if it is missing."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.where(path)}: {error.strerror}; check the path") from error

    def where(self, path: str) -> str:
        """The path."""
        return str(self.root / path)


@dataclass(frozen=True)
class RevisionFiles:
    """The files of a commit: those of git, and outputs of stages from DVC's cache, never from a
    remote.

    Attributes:
        root: Folder of the checkout.
        commit: Hash of the commit.
        label: What people call it.
    """

    root: Path
    commit: str
    label: str

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None where the commit or DVC's cache lacks it.

        Raises:
            DataError: The pipeline of the commit cannot be read.
        """
        if not path.startswith(OUTPUTS):
            return git_file(self.root, self.commit, path)
        from dvc.exceptions import DvcException  # takes a second
        from dvc_data.index import DataIndexDirError

        try:
            return self._tree.read_bytes(path)
        except (FileNotFoundError, DataIndexDirError):  # a file, or the list of its folder
            return None
        except DvcException as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.where(path)}: {reason}; correct dvc.yaml") from error

    def where(self, path: str) -> str:
        """The path, of which revision."""
        return f"{path} of {self.label}"

    @cached_property
    def _tree(self) -> DVCFileSystem:
        from dvc.api import DVCFileSystem

        # without a name, no remote is asked for what the cache lacks
        return DVCFileSystem(str(self.root), rev=self.commit, config={"core": {"remote": ""}})
