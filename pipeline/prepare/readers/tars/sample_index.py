"""The samples of a webdataset tar: the key of each, and where its members lie."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from kdeov.errors import DataError
from pipeline.artifacts.texts import is_unicode
from pipeline.console import printable
from pipeline.prepare.formats import READABLE_SUFFIXES
from pipeline.prepare.readers.tar_members import refused

Members = Iterable[tuple[str, int, int]]
KINDS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 1, "json": 2}
NO_SPANS = (-1, -1) * 3  # offset and size of image, text and description
TWICE = -2  # the size of a kind of which a sample has two files
HERE = re.compile(r"\A(\./+)+")  # in front of a name


@dataclass(frozen=True)
class Indexed:
    """A sample of a tar, or a member that cannot be used.

    Attributes:
        name: The key as the tar spells it, or the name of the member.
        places: Offset and size of image, text and description; -1 for what is missing.
        problem: Why it cannot be used, or None.
    """

    name: str
    places: list[int]
    problem: str | None


@dataclass
class Ignored:
    """Members that belong to no sample: their number by suffix, and the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, tar: str, member: str) -> None:
        """Counts a member."""
        suffix = member.rpartition(".")[2] if "." in member else ""
        self.counts[suffix] += 1
        self.examples.setdefault(suffix, f"{tar.rpartition('/')[2]}/{member}")

    def update(self, other: Ignored) -> None:
        """Adds what another counted."""
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def __str__(self) -> str:
        return ", ".join(
            f"{count} .{printable(suffix)} (such as {printable(self.examples[suffix])})"
            for suffix, count in self.counts.most_common()
        )


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]

    @property
    def suffix(self) -> str:
        return self.name.partition(".")[2].lower()


def index_samples(members: Members, where: str, ignored: Ignored) -> Iterator[Indexed]:
    """The samples of a tar, in order. Hidden files, such as macOS adds, are passed over.

    Args:
        members: Name, offset and size of each member (see `members_of`).
        where: Path or address of the tar.
        ignored: Receives the members that are no part of a sample.

    Raises:
        DataError: The tar is damaged or not sorted, or a member is a link or lies elsewhere.
    """
    seen: dict[str, set[int]] = {}  # the kinds of files of each key
    for key, group in groupby(_members(members, where), lambda member: member.key):
        places, images = list(NO_SPANS), []
        dotted = False
        for member in group:
            kind = KINDS.get(member.suffix)
            if kind is not None:
                again = places[2 * kind] >= 0
                places[2 * kind : 2 * kind + 2] = member.offset, TWICE if again else member.size
            elif member.suffix in READABLE_SUFFIXES:
                images.append(member)
            elif member.suffix.rpartition(".")[2] in READABLE_SUFFIXES:
                dotted = True
                reason = "its name has several dots, and its key ends at the first; rename it"
                yield Indexed(member.name, list(NO_SPANS), reason)
            else:
                ignored.add(where, member.name)
        if images and places[0] < 0:  # of a suffix that few tars have
            size = TWICE if len(images) > 1 else images[0].size
            places[:2] = images[0].offset, size
        kinds = {kind for kind in range(3) if places[2 * kind] >= 0}
        known = seen.setdefault(key, set())
        if kinds and known and not kinds & known:
            raise DataError(
                f"{where}: the files of {printable(key)} do not follow each other; sort it, say "
                "by `tar --sort=name -cf`"
            )
        if kinds or not (known or dotted):
            known |= kinds
            yield Indexed(key, places, _problem(key, places))


def _members(members: Members, where: str) -> Iterator[_Member]:
    for spelled, offset, size in members:
        name = HERE.sub("", spelled)
        parts = name.split("/")
        elsewhere = ".." in parts or "" in parts[:-1]
        hidden = parts[-1].startswith(".")
        if elsewhere or (len(parts) > 1 and not hidden):
            raise refused(where, spelled, "not beside the others; pack files without folders")
        if not hidden:
            yield _Member(name, offset, size)


def _problem(key: str, places: list[int]) -> str | None:
    sizes = places[1::2]
    if not is_unicode(key):
        return "its name is not UTF-8"
    if TWICE in sizes:
        return "two files of one kind"
    if sizes[0] < 0:
        return "no image"
    return None
