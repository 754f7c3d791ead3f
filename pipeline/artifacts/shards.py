"""Webdataset shards that are byte-identical for identical samples."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdeov.errors import DataError
from pipeline.artifacts.offsets import encode_starts, index_path
from pipeline.storage.files import HashedFile, disk_errors, writing

KEY = re.compile(r"[A-Za-z0-9_-]+\Z")

BLOCK = tarfile.BLOCKSIZE
NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)  # of a tar header
BLANK = tarfile.TarInfo().tobuf()
# without the digits of the size; the checksum counts as spaces in its own sum
BLANK_SUM = sum(BLANK) - sum(BLANK[SIZE]) - sum(BLANK[CHECKSUM]) + sum(b" " * 8)


@dataclass(frozen=True)
class Shard:
    """One tar: its name, number of samples, size in bytes and digest."""

    name: str
    samples: int
    bytes: int
    sha256: str


def shard_name(index: int) -> str:
    """`000042.tar`."""
    return f"{index:06d}.tar"


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> Shard:
    """Writes one shard atomically, then its index (see `offsets`).

    Args:
        path: The tar.
        samples: Mappings of `__key__` to a key and of extensions to bytes.

    Returns:
        Its entry in the manifest.

    Raises:
        DataError: A key is unusable or occurs twice.
        StorageError: The disk is full.
    """
    keys: set[str] = set()
    starts: list[int] = []
    hashed, size = hashlib.sha256(), 0
    with disk_errors(path):
        index_path(path).unlink(missing_ok=True)  # of a shard that was here before
    with writing(path) as file:
        for sample in samples:
            key = sample["__key__"]
            if not KEY.match(key):
                raise DataError(f"{path}: key {key!r} may hold letters, digits, - and _ only")
            if key in keys:
                raise DataError(
                    f"{path}: key {key!r} occurs twice; make the names in the source unique"
                )
            keys.add(key)
            starts.append(size)
            blocks = _blocks(sample)
            file.write(blocks)
            hashed.update(blocks)
            size += len(blocks)
        end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)
        file.write(end)
        hashed.update(end)
    with writing(index_path(path)) as file:
        file.write(encode_starts(starts, hashed.hexdigest()))
    return Shard(path.name, len(keys), size + len(end), hashed.hexdigest())


def _blocks(sample: dict[str, Any]) -> bytes:
    """A sample as it lies in a tar: the bytes that `tarfile` would write, in a tenth of its time,
    which counts for thumbnails and embeddings. Members are sorted and have no times, so that equal
    samples are equal bytes.
    """
    parts = []
    for extension in sorted(sample.keys() - {"__key__"}):
        data = sample[extension]
        name, size = f"{sample['__key__']}.{extension}".encode(), b"%011o\0" % len(data)
        if len(name) <= NAME.stop and len(size) == SIZE.stop - SIZE.start:
            total = BLANK_SUM + sum(name) + sum(size)
            parts += [
                name.ljust(NAME.stop, b"\0"), BLANK[NAME.stop : SIZE.start], size,
                BLANK[SIZE.stop : CHECKSUM.start], b"%06o\0 " % total, BLANK[CHECKSUM.stop :],
            ]  # fmt: skip
        else:
            member = tarfile.TarInfo(name.decode())
            member.size = len(data)
            parts.append(member.tobuf())
        parts += [data, bytes(-len(data) % BLOCK)]
    return b"".join(parts)


@contextlib.contextmanager
def shard_errors(where: str) -> Iterator[None]:
    """Turns the errors of a shard that cannot be read into one line.

    Raises:
        DataError: Names the shard.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{where}: missing; run the stage that wrote it again") from error
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{where}: damaged shard ({error}); run the stage that wrote it again"
        ) from error


def read_shard(
    path: Path,
    shard: Shard | None = None,
    wanted: Callable[[int], bool] | None = None,
    stop: int | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a local shard (see `read_samples`)."""
    with shard_errors(str(path)), open(path, "rb") as file:
        yield from read_samples(file, str(path), shard, wanted, stop)


def read_samples(
    file: IO[bytes] | HashedFile,
    where: str,
    shard: Shard | None = None,
    wanted: Callable[[int], bool] | None = None,
    stop: int | None = None,
    start: int = 0,
    starts: np.ndarray | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a shard in order, within `shard_errors`.

    Args:
        file: The tar, at its beginning.
        where: Its name in messages.
        shard: Its entry in the manifest; the number of samples is compared at the end.
        wanted: Whether to yield a sample, by number; the bytes of others are skipped.
        stop: Number of the sample before which reading ends; None reads to the end.
        start: Number of the first sample to yield.
        starts: Byte at which each sample starts, by the shard's index: nothing before `start` is
            read, and each sample is compared with its place. None reads the headers of all.

    Yields:
        Number of the sample, and its mapping of `__key__` and extensions to values.

    Raises:
        DataError: The shard is damaged, or holds something other than plain files.
    """
    # Imported here, because webdataset imports torch, which writers of shards do not need. Its own
    # reader of tars is 5 % slower, skips links silently and reads the samples that are not wanted.
    from webdataset.tariterators import group_by_keys

    numbers: dict[str, int] = {}
    skipped = 0 if starts is None else start
    if starts is not None:
        if start >= len(starts):
            return
        file.seek(int(starts[start]))

    def is_wanted(number: int) -> bool:
        return number >= start and (wanted is None or wanted(number))

    with tarfile.open(fileobj=file, mode="r:") as tar:
        members = _members(file, tar, where, numbers, is_wanted, (skipped, stop), starts)
        for sample in group_by_keys(members):
            yield numbers[sample["__key__"]], sample
    found = skipped + len(numbers)
    if shard is not None and found != min(shard.samples, stop or shard.samples):
        raise DataError(
            f"{where}: {found} samples, its manifest says {shard.samples}; run the stage that "
            "wrote it again"
        )


def _members(
    file: IO[bytes] | HashedFile,
    tar: tarfile.TarFile,
    where: str,
    numbers: dict[str, int],
    wanted: Callable[[int], bool],
    span: tuple[int, int | None],
    starts: np.ndarray | None,
) -> Iterator[dict[str, Any]]:
    current = None
    skipped, stop = span
    for member in tar:
        key, _, _ = member.name.partition(".")
        if not member.isreg() or member.issparse() or not KEY.match(key):
            raise DataError(
                f"{where}: member {member.name!r} is refused: not a plain file beside the others"
            )
        if key != current:
            if key in numbers:
                raise DataError(
                    f"{where}: key {key!r} occurs twice; run the stage that wrote it again"
                )
            number = skipped + len(numbers)
            if number == stop:
                return
            if starts is not None and (number >= len(starts) or member.offset != starts[number]):
                raise DataError(
                    f"{where}: sample {number} is not where the index of the shard says; delete "
                    "both and run the stage that wrote them again"
                )
            numbers[key], current = number, key
        if wanted(numbers[key]):
            # cheaper than a file object of tarfile for each member
            file.seek(member.offset_data)
            data = file.read(member.size)
            if len(data) != member.size:
                raise DataError(
                    f"{where}: truncated at {member.name}; run the stage that wrote it again"
                )
            yield {"fname": member.name, "data": data, "__url__": where}


def sample_json(sample: dict[str, Any]) -> dict[str, Any]:
    """The description of an image sample."""
    return json.loads(sample["json"])
