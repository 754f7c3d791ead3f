"""What a data source is: the inputs of each split, and a function that makes a sample of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    """One image on its way into a shard.

    Attributes:
        key: Name in the shard; letters, digits, - and _ alone, unique in its split.
        jpeg: The encoded image.
        captions: At least one, or none in all images of the data set.
        source: What a person would look for, such as a file name.
        label: Index into the data set's classes, or None where the source has none.
        extra: Whatever else the source knows (boxes, say); JSON types only.
        grid: See `pipeline.prepare.images.grey_grid`. A source gives it for all of its images, or
            None for all to keep them from being compared between splits.
    """

    key: str
    jpeg: bytes
    captions: list[str]
    source: str
    label: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    grid: bytes | None = None


@dataclass(frozen=True)
class Rejected:
    """One input that cannot be used, and why."""

    name: str
    reason: str


class Inputs(Protocol):
    """The inputs of a split, in an order that never changes: a list, or what is read as it goes."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Source:
    """A data set that has been listed and not yet read.

    Attributes:
        inputs: Of each split. What the listing already refused is a `Rejected` among them.
        make: A sample of one input; the same whenever and wherever it is called. It is pickled
            into worker processes, so it holds no list of inputs.
        classes: Names of the labels; empty where images have none.
        held_out: Those of the classes that never occur in training.
    """

    inputs: Mapping[str, Inputs]
    make: Callable[[Any], Sample | Rejected]
    classes: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
