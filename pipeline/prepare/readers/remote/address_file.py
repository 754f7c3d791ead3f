"""A small local file that holds the address of a data set in a bucket.

DVC watches the file in place of the bucket: it needs an extra package for buckets, and lists and
compares all objects at each run.
"""

from __future__ import annotations

from pathlib import Path

from kdeov.errors import ConfigError, DataError
from pipeline.storage.storage import check_address

SUFFIX = ".address"
COMMENT = "#"


def address_of(path: Path | str) -> str | None:
    """The address in a bucket that `prepare.path` names, itself or by a file; None for other paths.

    Raises:
        DataError: The file cannot be read.
        ConfigError: The file holds no address, several, or a malformed one.
    """
    if isinstance(path, str):
        return path
    if path.suffix != SUFFIX:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check prepare.path") from error
    found = [text for line in lines if (text := line.strip()) and not text.startswith(COMMENT)]
    if len(found) != 1 or "://" not in found[0]:
        raise ConfigError(f"{path}: must hold one address; write s3://BUCKET/PREFIX into it")
    try:
        return check_address(found[0])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; correct it") from error
