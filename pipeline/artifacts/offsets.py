"""The index of a shard: where each sample starts, so that reading may begin at any of them.

An index lies beside its shard as `STEM.idx`, or in a storage as `shards/SHA256.idx`. It begins
with `MAGIC`, the sha256 of the shard (32 bytes), the number of samples and the bytes of a start (4
or 8), both little-endian uint64. Starts follow, in blocks of 512 bytes, then the sha256 of all
before. So it is bound to the shard's bytes, and no reader begins at a wrong place.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdeov.errors import DataError

SUFFIX = ".idx"
MAGIC = b"KDEOVIX1"
HEADER = struct.Struct("<8s32sQQ")
BLOCK = tarfile.BLOCKSIZE
MAX_BLOCKS = 1 << 32  # from which on a start takes eight bytes: a shard of 2 TB
DIGEST_BYTES = 32
FIX = "delete it, and the shard is read from its beginning"


def index_path(shard: Path) -> Path:
    """Path of the index of a shard that lies in a folder."""
    return shard.with_suffix(SUFFIX)


def starts_in(shard: Path) -> list[int]:
    """The byte at which each sample of a whole shard starts."""
    starts: dict[str, int] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            starts.setdefault(member.name.partition(".")[0], member.offset)
    return list(starts.values())


def encode_starts(starts: Sequence[int], sha256: str) -> bytes:
    """The bytes of an index.

    Args:
        starts: Byte at which each sample starts; multiples of 512.
        sha256: Of the shard.
    """
    blocks = np.asarray(starts, np.int64) // BLOCK
    width = 8 if len(blocks) and blocks[-1] >= MAX_BLOCKS else 4
    head = HEADER.pack(MAGIC, bytes.fromhex(sha256), len(blocks), width)
    data = head + blocks.astype(f"<u{width}").tobytes()
    return data + hashlib.sha256(data).digest()


def decode_starts(data: bytes, where: str, sha256: str, samples: int) -> np.ndarray:
    """The byte at which each sample starts, int64 [samples].

    Args:
        data: All bytes of an index.
        where: Its path or address, for errors.
        sha256: Of the shard, by its manifest.
        samples: Samples of the shard, by its manifest.

    Raises:
        DataError: The index is damaged, or belongs to another shard.
    """
    content, checksum = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if len(content) < HEADER.size or hashlib.sha256(content).digest() != checksum:
        raise DataError(f"{where}: damaged index; {FIX}")
    magic, shard, count, width = HEADER.unpack_from(content)
    if magic != MAGIC or width not in (4, 8) or len(content) != HEADER.size + count * width:
        raise DataError(f"{where}: an index of another version; {FIX}")
    if shard.hex() != sha256 or count != samples:
        raise DataError(f"{where}: the index of another shard; {FIX}")
    return np.frombuffer(content, f"<u{width}", offset=HEADER.size).astype(np.int64) * BLOCK
