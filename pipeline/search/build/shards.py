"""Brings an index up to date with the image shards of a split, whose keys are the paths; and makes
one of the teacher's cached embeddings of such shards, without decoding an image.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from kdeov.errors import DataError
from kdeov.weights.digests import digest
from pipeline.artifacts.manifest import EMBEDDINGS, MANIFEST, Manifest
from pipeline.artifacts.shards import KEY, Shard, shard_errors
from pipeline.artifacts.teacher_shards import first_not_unit
from pipeline.search.build.folder import count_files, remove, take_source
from pipeline.search.build.read import Item
from pipeline.search.build.update import COMMIT, Counts, Updater
from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IndexIdentity
from pipeline.search.model import SearchModel
from pipeline.search.table import File

SHARDS, CACHED = "shards", "embeddings"  # kinds of an index
IMAGE, BLOCK, CHECKSUMS = "jpg", "fp16", "crc"  # members of a sample

Progress = Callable[[int], Callable[[int], object]]


def is_shards(folder: Path) -> bool:
    """Whether a folder holds shards with their manifest."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path, kind: str) -> Manifest:
    """The manifest of shards of a kind, `images` or `teacher`.

    Raises:
        DataError: It is missing, damaged, or of another kind.
    """
    manifest = Manifest.read(folder)
    if manifest.kind != kind:
        raise DataError(f"{folder}: holds shards of kind {manifest.kind!r}; give those of {kind!r}")
    return manifest


def index_shards(
    folder: Path, writer: IndexWriter, model: SearchModel, progress: Progress
) -> Counts:
    """Updates an index of image shards; shards that it has are not read.

    Args:
        folder: With `manifest.json`, resolved.
        writer: Of the index, entered.
        model: Whose identity the index has; it is opened if there is an image to embed.
        progress: Called with the number of images to do; what it returns, with those that are done.

    Raises:
        DataError: A shard is missing or damaged.
        StorageError: The index cannot be written.
    """
    manifest, counts = read_manifest(folder, "images"), Counts()
    take_source(writer, SHARDS, folder, model.address)
    left = _left(writer, manifest)
    if left:
        updater = Updater(writer, model, counts, progress(sum(s.samples for s in left)))
        for shard in left:
            part = _begin(writer, shard)
            updater.add(_images(folder, shard, part))
            _end(writer, part)
    _remove_others(writer, manifest, counts)
    count_files(writer, counts)
    return counts


def index_cached(shards: Path, embeddings: Path, writer: IndexWriter, progress: Progress) -> Counts:
    """Updates an index of the embeddings that the teacher's cache has of image shards.

    Args:
        shards: Folder of the image shards, resolved.
        embeddings: Folder of their teacher shards.
        writer: Of an index with `cached_identity`, entered.
        progress: As of `index_shards`.

    Raises:
        DataError: The two do not belong together, or a shard is missing or damaged.
        StorageError: The index cannot be written.
    """
    images, cache = read_manifest(shards, "images"), read_manifest(embeddings, "teacher")
    if [(s.name, s.samples) for s in images.shards] != [(s.name, s.samples) for s in cache.shards]:
        raise DataError(
            f"{embeddings}: names or sizes of its shards differ from those of {shards}; run "
            "`dvc repro embed`"
        )
    counts = Counts()
    take_source(writer, CACHED, shards, None)
    left = _left(writer, cache)
    on_progress = progress(sum(shard.samples for shard in left)) if left else None
    for shard in left:
        part = _begin(writer, shard)
        _add_cached(embeddings, shard, part, writer, counts)
        _end(writer, part)
        if on_progress is not None:
            on_progress(shard.samples)
    _remove_others(writer, cache, counts)
    count_files(writer, counts)
    return counts


def cached_identity(
    embeddings: Path, text_space: Callable[[dict[str, object]], str], known: IndexIdentity | None
) -> IndexIdentity:
    """The identity of an index of a teacher's embeddings.

    Args:
        embeddings: Folder of teacher shards.
        text_space: Digest of the texts of a teacher, by its identity; slow.
        known: The identity of the index that is there; if it is of the same teacher, nothing is
            computed.

    Raises:
        DataError: The cache has no embeddings of whole images.
    """
    manifest = read_manifest(embeddings, "teacher")
    teacher = manifest.identity["teacher"]
    if not manifest.identity["views"]["count"]:
        raise DataError(f"{embeddings}: holds no embeddings of whole images; index the images")
    made = digest(teacher)
    if known is not None and known.image_digest == made:
        return known
    space = text_space(teacher)
    return IndexIdentity(made, space, teacher["embed_dim"], str(teacher["name"]))


def teacher_text_space(folder: Path, teacher: dict[str, object]) -> str:
    """Digest of a teacher's texts, as exports of its students state it; loads it with PyTorch.

    Args:
        folder: Of the teacher, that stage `teacher` wrote.
        teacher: The identity that it must have.

    Raises:
        DataError: There is no such teacher.
    """
    from kdeov.export.text import text_space
    from pipeline.artifacts.identity import IDENTITY, require_identity
    from pipeline.teachers.load import load_teacher

    loaded = load_teacher(folder)
    require_identity(teacher, loaded.identity().to_dict(), folder / IDENTITY)
    return text_space(loaded.text)


def _left(writer: IndexWriter, manifest: Manifest) -> list[Shard]:
    """Shards that the index does not have whole."""
    done = {name for (name,) in writer.files.query("SELECT name FROM parts WHERE done")}
    return [shard for shard in manifest.shards if shard.sha256 not in done]


def _begin(writer: IndexWriter, shard: Shard) -> int:
    writer.files.query("INSERT OR IGNORE INTO parts (name) VALUES (?)", (shard.sha256,))
    found = writer.files.query("SELECT id FROM parts WHERE name = ?", (shard.sha256,))
    return int(found[0][0])


def _end(writer: IndexWriter, part: int) -> None:
    writer.files.query("UPDATE parts SET done = 1 WHERE id = ?", (part,))


def _remove_others(writer: IndexWriter, manifest: Manifest, counts: Counts) -> None:
    """Removes the images of shards that are not in the manifest."""
    wanted = {shard.sha256 for shard in manifest.shards}
    for part, name in writer.files.query("SELECT id, name FROM parts"):
        if name not in wanted:
            paths = writer.files.paths_of_part(part)
            remove(writer, paths)
            counts.gone += len(paths)
            writer.files.query("DELETE FROM parts WHERE id = ?", (part,))


def _images(folder: Path, shard: Shard, part: int) -> Iterator[Item]:
    for key, members in _samples(folder, shard, {IMAGE}):
        if IMAGE not in members:
            raise DataError(
                f"{folder / shard.name}: {key} has no .{IMAGE}; run `dvc repro prepare`"
            )
        yield Item(key, members[IMAGE], len(members[IMAGE]), part=part)


def _add_cached(folder: Path, shard: Shard, part: int, writer: IndexWriter, counts: Counts) -> None:
    where, dim = folder / shard.name, writer.identity.embed_dim
    rows: list[np.ndarray] = []
    files: list[File] = []

    def commit() -> None:
        if rows and (wrong := first_not_unit(np.stack(rows))) is not None:
            raise DataError(
                f"{where}: an embedding of length {wrong[1]:.3f}; run `dvc repro embed`"
            )
        writer.commit(np.stack(rows) if rows else np.empty((0, dim)), files)
        counts.embedded += len(rows)
        counts.kept += len(files) - len(rows)
        rows.clear()
        files.clear()

    new: dict[bytes, int] = {}
    for key, members in _samples(folder, shard, {BLOCK, CHECKSUMS}):
        block = members.get(BLOCK, b"")
        if len(block) < 2 * dim or CHECKSUMS not in members:
            raise DataError(f"{where}: {key} has no embedding of {dim}; run `dvc repro embed`")
        first = block[: 2 * dim]  # of the whole image; others are of crops and captions
        content = hashlib.sha256(first + members[CHECKSUMS]).digest()
        row = new.get(content)
        row = writer.row_of_content(content) if row is None else row
        if row is None:
            row = new[content] = writer.count + len(rows)
            rows.append(np.frombuffer(first, "<f2"))
        files.append(File(key, content, len(block), 0, None, None, row, part))
        if len(files) == COMMIT * 8:  # nothing is computed, so a batch is done in no time
            commit()
            new.clear()
    commit()


def _samples(
    folder: Path, shard: Shard, wanted: set[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Keys of a shard with those members that are wanted. `pipeline.artifacts.shards` reads them
    with webdataset, which the runtime's install does not have.
    """
    path, count = folder / shard.name, 0
    with shard_errors(str(path)), tarfile.open(path, "r:") as tar:
        for key, members in groupby(tar, key=lambda member: member.name.partition(".")[0]):
            found: dict[str, bytes] = {}
            for member in members:
                if not member.isreg() or not KEY.match(key):
                    raise DataError(f"{path}: member {member.name!r} is refused: no plain file")
                extension = member.name.partition(".")[2]
                file = tar.extractfile(member) if extension in wanted else None
                if file is not None:
                    found[extension] = file.read()
            count += 1
            yield key, found
    if count != shard.samples:
        raise DataError(
            f"{path}: {count} samples, its manifest says {shard.samples}; run the stage that wrote "
            "it again"
        )


def default_teacher(embeddings: Path) -> Path:
    """The folder of the teacher that belongs to a folder of teacher shards of a checkout."""
    above = embeddings.parent.parent if embeddings.parent.name == EMBEDDINGS else embeddings.parent
    return above / "teacher"
