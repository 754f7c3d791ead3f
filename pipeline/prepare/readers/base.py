"""Interface of data sources: the inputs of each split, and a function from input to sample."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.console import printable

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5  # of classes, in a log line


@dataclass(frozen=True)
class Sample:
    """One image on its way into a shard.

    Attributes:
        key: Name in the shard; letters, digits, - and _ alone, unique in its split.
        jpeg: The encoded image.
        captions: At least one, or none in all images of the data set.
        source: Its name in the source, such as a file name.
        label: Index into the data set's classes, or None where the source has none.
        extra: Other metadata, such as boxes; JSON types only.
        grid: See `pipeline.prepare.images.gray_grid`. A source sets it for all of its images, or
            None for all, and they are not compared between splits.
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
    """An input that cannot be used, and the reason.

    Attributes:
        name: Its name in the source.
        reason: In a few words.
        unread: Whether it was there when the source was listed, and could not be read: then its
            shard has no record, and the next run tries again.
    """

    name: str
    reason: str
    unread: bool = False


class Inputs(Protocol):
    """The inputs of a split, in a fixed order: a list, or a lazy reader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Source:
    """A data set that is listed but not yet read.

    Attributes:
        inputs: The inputs of each split. Those that listing rejects are `Rejected`.
        make: Makes a sample of one input, deterministically. It is pickled into worker processes,
            so it holds no list of inputs.
        classes: Names of the labels; empty where images have none. A class that the data set
            names, and of which no image can be stored, is left out.
        held_out: Classes of which no training image can be stored.
        object_classes: Names that boxes may have (see `Dataset`).
        held_out_objects: Those whose boxes never supervise.
    """

    inputs: Mapping[str, Inputs]
    make: Callable[[Any], Sample | Rejected]
    classes: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    object_classes: list[str] = field(default_factory=list)
    held_out_objects: list[str] = field(default_factory=list)


def warn_of_classes(classes: Collection[str], stored: Collection[str]) -> None:
    """Names the classes that are left out, as no image of them can be stored, and those that may
    be one class: `Cat` and `cat`.
    """
    warn_of_some("no image", set(classes) - set(stored), len(classes))
    counts = Counter(name.casefold() for name in set(stored))
    alike = [name for name in stored if counts[name.casefold()] > 1]
    warn_of_some("the name of another but for capitals", alike, len(stored))


def warn_of_some(words: str, few: Collection[str], total: int) -> None:
    """Logs how many of all classes have few images, with examples."""
    if few:
        some = ", ".join(map(printable, sorted(few)[:NUM_EXAMPLES]))
        more = ", ..." if len(few) > NUM_EXAMPLES else ""
        logger.warning("%d of %d classes have %s: %s%s", len(few), total, words, some, more)
