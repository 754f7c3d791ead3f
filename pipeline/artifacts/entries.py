"""Entries of a JSON list, read one by one, so that a stray one stops no data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
SHOWN = 60  # characters of a value in a reason


class MalformedError(ValueError):
    """An entry is not what its format says; the text is the reason in a few words."""


def read_entries(
    values: dict[str, Any], key: str, parse: Callable[[Any], T]
) -> tuple[list[T], list[tuple[int, Any, str]]]:
    """Parses each entry of a list.

    Args:
        values: The mapping that holds the list.
        key: The key of the list.
        parse: Makes something of an entry, or raises `MalformedError`.

    Returns:
        What the entries became, and the number, the entry and the reason of each stray one.

    Raises:
        MalformedError: There is no list, or every entry is malformed, so the file has another
            format.
    """
    entries = field(values, key)
    if not isinstance(entries, list):
        raise MalformedError(f"{key!r} is no list")
    found: list[T] = []
    strays = []
    for number, entry in enumerate(entries):
        try:
            found.append(parse(entry))
        except MalformedError as error:
            strays.append((number, entry, str(error)))
    if strays and not found:
        raise MalformedError(f"{key} {strays[0][0]}: {strays[0][2]}")
    return found, strays


def field(entry: Any, key: str) -> Any:
    """The value of a key.

    Raises:
        MalformedError: The entry is no mapping, or lacks the key.
    """
    if not isinstance(entry, dict):
        raise MalformedError(f"not a mapping ({shown(entry)})")
    if key not in entry:
        raise MalformedError(f"no {key!r}")
    return entry[key]


def text_field(entry: Any, key: str) -> str:
    """The text of a key (see `field`)."""
    value = field(entry, key)
    if not isinstance(value, str):
        raise MalformedError(f"the {key} {shown(value)} is not a string")
    return value


def caption_field(entry: Any, key: str) -> str:
    """The caption of a key (see `text_field`); null is an empty caption."""
    return "" if field(entry, key) is None else text_field(entry, key)


def int_field(entry: Any, key: str) -> int:
    """The whole number of a key (see `field`)."""
    value = field(entry, key)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise MalformedError(f"the {key} {shown(value)} is not a number") from None


def id_field(entry: Any, key: str) -> int | float | str:
    """The id of a key (see `field`)."""
    value = field(entry, key)
    if not isinstance(value, (int, float, str)):
        raise MalformedError(f"the {key} {shown(value)} is not an id")
    return value


def shown(value: Any) -> str:
    """A value in a reason, in a few characters."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
