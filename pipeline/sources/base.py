"""What a data source is: a list of inputs for each split, and a function that makes a sample of
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    """One picture on its way into a shard.

    Attributes:
        key: Name in the shard; letters, digits, - and _ alone, unique in its split.
        jpeg: The encoded picture.
        captions: At least one caption.
        label: Index into the data set's classes, or None where the source has none.
        source: What a person would look for, such as a file name.
        extra: Whatever else the source knows (boxes, say); JSON types only.
    """

    key: str
    jpeg: bytes
    captions: list[str]
    source: str
    label: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """One input that cannot be used, and why."""

    name: str
    reason: str


class Source(Protocol):
    """A data set. It is pickled into worker processes, which call `make`.

    Attributes:
        classes: Names of the labels; empty where pictures have none.
        held_out: Those of the classes that never occur in training.
    """

    classes: list[str]
    held_out: list[str]

    def inputs(self, split: str) -> Sequence[Any]:
        """The inputs of a split, in an order that never changes."""
        ...

    def make(self, item: Any) -> Sample | Rejected:
        """A sample of one input; the same whenever and wherever it is called."""
        ...
