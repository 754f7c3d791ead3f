"""Filters of a search: by folder, name and date, as `--where` gives them."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from kdeov.errors import ConfigError

DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
EXAMPLE = '--where "folder=2024/alps, after=2024-05-01"'


@dataclass(frozen=True)
class Where:
    """Files that a search looks at: those that fit every filter.

    The date of a file is that of its EXIF data and, for one without, that of its last change.

    Attributes:
        folder: A folder within the indexed one, with its sub-folders.
        name: A pattern of file names, such as `IMG_*.jpg`.
        date: A year, month or day, `2024`, `2024-05` or `2024-05-01`.
        after: The first year, month or day.
        before: The year, month or day that comes after the last.
    """

    folder: str | None = None
    name: str | None = None
    date: str | None = None
    after: str | None = None
    before: str | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Where | None:
        """Filters `folder=2024/alps`, `name=*.png`, `date=2024-05`, `after=2024-05-01` and
        `before=2025`; a text may hold several, separated by commas.

        Raises:
            ConfigError: An unknown filter, one given twice, or what is no date.
        """
        known = [entry.name for entry in fields(cls)]
        separator = re.compile(rf"\s*,\s*(?=(?:{'|'.join(known)})\s*=)")
        found: dict[str, str] = {}
        for part in (part for text in texts for part in separator.split(text)):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in known or not value:
                raise ConfigError(
                    f"--where {part!r}: no filter; give {', '.join(f'{name}=' for name in known)}"
                    f" with a value, such as {EXAMPLE}"
                )
            if key in found:
                raise ConfigError(f"--where: {key} is given twice; give it once")
            found[key] = value
        for key in ("date", "after", "before"):
            if key in found:
                _require_date(key, found[key])
        return cls(**found) if found else None

    def condition(self, root: Path | None) -> tuple[str, list[bytes | str]]:
        """The filters in SQL, on columns `path` and `moment`, and the values of its marks.

        Args:
            root: The indexed folder, within which absolute folders must lie.

        Raises:
            ConfigError: A folder that is outside of the indexed one.
        """
        terms: list[str] = []
        values: list[bytes | str] = []
        if self.folder is not None and (inside := _within(self.folder, root)):
            terms += ["path >= ?", "path < ?"]  # the character after the slash is 0
            values += [os.fsencode(f"{inside}/"), os.fsencode(f"{inside}0")]
        if self.name is not None:
            terms.append("('/' || CAST(path AS TEXT)) GLOB ?")
            values.append(f"*/{self.name}")
        if self.date is not None:
            terms += ["moment >= ?", "moment < ?"]
            values += [self.date, f"{self.date}~"]
        if self.after is not None:
            terms.append("moment >= ?")
            values.append(self.after)
        if self.before is not None:
            terms.append("moment < ?")
            values.append(self.before)
        return " AND ".join(terms) or "1", values


def _within(folder: str, root: Path | None) -> str:
    """A folder relative to the indexed one, without slashes around; empty for that itself."""
    path = Path(folder).expanduser()
    if path.is_absolute():
        if root is None or not path.is_relative_to(root):
            raise ConfigError(f"--where folder={folder}: outside of the indexed folder {root}")
        path = path.relative_to(root)
    if ".." in path.parts:
        raise ConfigError(
            f"--where folder={folder}: leads out of the indexed folder; name one in it"
        )
    inside = PurePosixPath(path).as_posix()
    return "" if inside == "." else inside


def _require_date(key: str, value: str) -> None:
    try:
        if DATE.fullmatch(value):
            datetime.date.fromisoformat(value + "-01-01"[len(value) - 4 :])
            return
    except ValueError:
        pass
    raise ConfigError(f"--where {key}={value}: no date; give 2024, 2024-05 or 2024-05-01")
