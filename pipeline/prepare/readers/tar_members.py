"""Members of a tar by name and place, found a few times as fast as by `tarfile`, which is asked
about all that is unusual.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kdeov.errors import KdeovError

BLOCK = tarfile.BLOCKSIZE
SPACES = sum(b" " * 8)
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


def plain_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Members of a local tar (see `members_of`)."""
    try:
        with open(path, "rb") as file:
            yield from members_of(file, str(path))
    except OSError as error:
        raise KdeovError(f"{path}: damaged tar ({error}); get it again") from error


def members_of(file: IO[bytes], where: str) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member.

    Args:
        file: A tar that is not compressed.
        where: What messages call it.

    Raises:
        KdeovError: The tar is damaged or has no end, or a member is no plain file.
    """
    try:
        total = file.seek(0, 2)
        place = 0
        while (found := _member(file, where, place)) is not None:
            name, offset, size = found
            if not 0 <= size <= total - offset:
                raise tarfile.ReadError(f"truncated at {name}")
            yield found
            place = offset + size + -size % BLOCK
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise KdeovError(f"{where}: damaged tar ({error}); get it again") from error


def refused(where: str, member: str) -> KdeovError:
    """What to say of a member that could lead elsewhere."""
    return KdeovError(f"{where}: member {member!r} is refused: not a plain file beside the others")


def _member(file: IO[bytes], where: str, place: int) -> tuple[str, int, int] | None:
    """Name, offset and size of the member whose header begins there, or None at the end."""
    file.seek(place)
    header = file.read(BLOCK)
    if (plain := _plain(header)) is not None:
        name, size = plain
        return name, place + BLOCK, size
    if len(header) == BLOCK and not any(header):
        return None
    file.seek(place)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        member = tar.next()
        if member is None:  # tarfile takes what it cannot read for the end
            raise tarfile.ReadError(f"no member at byte {place}")
        if not member.isreg() or member.issparse():
            raise refused(where, member.name)
        return member.name, member.offset_data, member.size


def _plain(header: bytes) -> tuple[str, int] | None:
    """Name and size of a plain file with a short name, or None where there may be more to it."""
    if any(header[345:]) or header[156:157] not in PLAIN:
        return None
    checksum = header[148:156]  # of all bytes, its own taken for spaces
    try:
        name = header[:100].partition(b"\0")[0].decode("ascii")
        if int(checksum.strip(b" \0"), 8) != sum(header[:345]) - sum(checksum) + SPACES:
            return None
        return name, int(header[124:136].strip(b" \0"), 8)
    except ValueError:
        return None
