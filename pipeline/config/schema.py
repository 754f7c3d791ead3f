"""Types that the sections of `params.yaml` have in common.

Numbers are finite, and neither texts nor true and false stand for one.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from kdeov.prompts import TEMPLATES, is_visible, published_templates

SECTION_ERROR = "section"  # type of pydantic's errors that `section_error` makes
MAX_COUNT = 2**31 - 1  # fits every integer of the libraries that read it
SMALLEST, LARGEST = 1e-30, 1e30  # beyond them, float32 arithmetic under- or overflows

Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0, le=MAX_COUNT)]
Seed = Whole
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_COUNT)]
Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Share = Annotated[Real, Field(ge=0, le=1)]
NonNegative = Annotated[Real, Field(ge=0, le=LARGEST)]
Positive = Annotated[Real, Field(ge=SMALLEST, le=LARGEST)]


def _names_something(value: object) -> object:
    if isinstance(value, str) and not (value.strip() and value.isprintable()):
        raise ValueError("give a text that is not empty and has no control characters")
    return value


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not re.match(r"[A-Za-z0-9_]", name):
        raise ValueError("give a name of letters, digits, _, . and -, that begins with no . or -")
    return name


def _path_or_address(value: Path | str) -> Path | str:
    is_address = isinstance(value, str) and "://" in value
    return value if is_address else Path(value)


def _local(path: Path) -> Path:
    if re.match("[A-Za-z0-9]{2,}:/", path.as_posix()):  # a path has lost one of its //
        raise ValueError("give a path of this machine, and get the file there first")
    return path


def _without_home(path: Path | str) -> Path | str:
    if isinstance(path, Path) and path.parts[:1] and path.parts[0].startswith("~"):
        home = os.path.expanduser(path)  # noqa: PTH111 (Path raises for an unknown `~user`)
        raise ValueError(f"DVC does not expand ~; write {home if home[0] != '~' else 'all of it'}")
    return path


def _visible(names: dict[str, str | None]) -> dict[str, str | None]:
    for key, name in names.items():
        if name is not None and not is_visible(name):
            raise ValueError(f"give {key!r} a name that can be read, or null to leave it out")
    return names


def _known_templates(name: str) -> str:
    known = TEMPLATES | published_templates()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1) or [*TEMPLATES, "..."]
        raise ValueError(f"give a set of templates such as {', '.join(near)}")
    return name


Text = Annotated[str, BeforeValidator(_names_something)]
PlainName = Annotated[str, AfterValidator(_plain_name)]
"""A name that fits into files, tables and addresses."""
ClassNames = Annotated[dict[str, str | None], AfterValidator(_visible)]
"""Names of classes by those of the data set; null leaves one out."""
TemplateSet = Annotated[str, AfterValidator(_known_templates)]
"""A set of prompt templates of `kdeov.prompts`."""
AnyPath = Annotated[Path, BeforeValidator(_names_something), AfterValidator(_local)]
WatchedPath = Annotated[AnyPath, AfterValidator(_without_home)]
"""A path that `dvc.yaml` lists as a dep."""
WatchedData = Annotated[
    Path | str,
    BeforeValidator(_names_something),
    AfterValidator(_path_or_address),
    AfterValidator(_without_home),
]
"""A path that `dvc.yaml` lists as a dep, or the address of a bucket, which stays a text."""


class Section(BaseModel):
    """A mapping that refuses unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def section_error(text: str) -> PydanticCustomError:
    """The error of a validator of a whole section.

    Args:
        text: Begins with the key at fault, and follows the name of the section and a dot.
    """
    return PydanticCustomError(SECTION_ERROR, "{text}", {"text": text})
