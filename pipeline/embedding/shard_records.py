"""What says of a finished teacher shard what it was made from: a note, beside the shard or in the
storage.

In a storage a note is found by what it says, so that whoever embeds the same images in the same
way, in any checkout, finds the shard.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.artifacts.identity import differences
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.storage.files import digest, json_text, read_json, sha256_file, write_json
from pipeline.storage.storage import open_storage


def record_path(out: Path, image: Shard) -> Path:
    """The note of a teacher shard that lies in a folder."""
    return out / f"{Path(image.name).stem}.json"


def note_name(identity: dict[str, Any], image: Shard) -> str:
    """The note of a teacher shard in a storage."""
    return f"teacher/{digest(identity)}/{image.sha256}.json"


def write_record(out: ShardFolder, image: Shard, identity: dict[str, Any], made: Shard) -> None:
    """Notes a finished teacher shard.

    Args:
        out: Folder of the teacher shards of a split.
        image: The image shard.
        identity: What the teacher shard was made from, besides (see `pipeline.artifacts.identity`).
        made: The teacher shard.
    """
    note = {"identity": identity, "images_sha256": image.sha256, "shard": asdict(made)}
    if out.storage is None:
        write_json(record_path(out.path, image), note)
    else:
        open_storage(out.storage).write(note_name(identity, image), json_text(note).encode())


def finished(out: ShardFolder, image: Shard, identity: dict[str, Any]) -> Shard | str | None:
    """A finished teacher shard, or why the one that is there does not fit; None where none is.

    What lies in a folder is compared byte by byte, and brought to the storage where there is one.
    What lies in the storage is compared by its size: its name vouches for its bytes.
    """
    if out.storage is None:
        return _finished_here(out.path, image, identity)
    if (there := _finished_there(out, image, identity)) is not None:
        return there
    made = _finished_here(out.path, image, identity)
    if isinstance(made, Shard):
        out.upload(made)
        write_record(out, image, identity, made)
    return made


def _finished_there(out: ShardFolder, image: Shard, identity: dict[str, Any]) -> Shard | None:
    assert out.storage is not None
    try:
        note = json.loads(open_storage(out.storage).read(note_name(identity, image)))
        # an equal image shard of another data set may have another number there
        made = replace(Shard(**note["shard"]), name=image.name)
        fits = note["images_sha256"] == image.sha256 and note["identity"] == identity
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, KdeovError):
            raise
        return None
    return made if fits and made.samples == image.samples and out.is_stored(made) else None


def _finished_here(out: Path, image: Shard, identity: dict[str, Any]) -> Shard | str | None:
    note, path = record_path(out, image), out / image.name
    if not note.is_file():
        return None
    try:
        found = read_json(note, "embed")
        made = Shard(**found["shard"])
        why = differences(identity, found["identity"])
        if not why and found["images_sha256"] != image.sha256:
            why = ["its images changed"]
        if not why and not path.is_file():
            why = ["it is missing"]
        if not why and (path.stat().st_size != made.bytes or sha256_file(path) != made.sha256):
            why = ["its bytes changed"]
    except (KdeovError, KeyError, TypeError):
        why = ["its note is damaged"]
    if why:
        note.unlink()
        return "; ".join(why)
    return made
