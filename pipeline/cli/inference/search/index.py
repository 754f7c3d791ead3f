"""`kdeov index`: makes an index of images, or brings it up to date."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from kdeov.errors import ConfigError, DataError, KdeovError
from kdeov.weights.folder import user_path
from pipeline.cli.inference.output import Errors, progress_on_terminal
from pipeline.search.build.folder import index_folder, require_images
from pipeline.search.build.scan import scan_folder
from pipeline.search.build.shards import (
    cached_identity,
    default_teacher,
    index_cached,
    index_shards,
    is_shards,
    teacher_text_space,
)
from pipeline.search.build.update import Counts
from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IndexIdentity, read_identity
from pipeline.search.index import Index
from pipeline.search.model import SearchModel


@dataclass(frozen=True)
class Options:
    """How an index is made.

    Attributes:
        objects: Whether it holds regions; one that does keeps doing so.
        rebuild: Whether to make all of it again.
        embeddings: Folder of teacher shards; None embeds the images.
        teacher: Folder of that teacher; None is the one beside.
        model: Address of the model; None takes the one that made the index, or `out/export`.
        int8: Whether to use the INT8 file.
    """

    objects: bool
    rebuild: bool
    embeddings: Path | None
    teacher: Path | None
    model: str | None
    int8: bool


def make_index(folder: Path, output: Path, options: Options) -> None:
    """Indexes a folder of images or of shards, and prints what was done.

    Args:
        folder: Of the images or shards.
        output: The index.
        options: How it is made.

    Raises:
        KdeovError: There is no model or no image, or the index is another's or cannot be written.
        Exit: With status 2, if some images could not be read.
    """
    root, output = user_path(folder).resolve(), user_path(output)
    with ExitStack() as stack:
        progress = partial(_progress, stack)
        if options.embeddings is not None:
            counts, made = _cached(root, output, options, progress)
        else:
            counts, made = _embedded(root, output, options, progress)
    errors = Errors("index")
    for error in counts.errors:
        errors.add(error)
    if not counts.files:
        raise DataError(f"{folder}: no image could be read; {output} is empty")
    typer.echo(f"{output}: {counts.files:,} images{_changes(counts)}, made with {made}")
    if counts.dead:
        typer.echo(
            f"{counts.dead:,} embeddings of images that are gone are kept, for images that come "
            "back; --rebuild drops them",
            err=True,
        )
    errors.exit()


def _embedded(
    root: Path, output: Path, options: Options, progress: Callable[[int], Callable[[int], object]]
) -> tuple[Counts, str]:
    shards = is_shards(root)
    scan = None
    if not shards:
        scan = scan_folder(root)
        require_images(scan, root)
    address = options.model or (None if options.rebuild else _recorded_model(output))
    model = SearchModel(address, "int8" if options.int8 else "fp32")
    known = _known(output) if not options.rebuild else None
    objects = options.objects or (known is not None and known.objects is not None)
    identity = model.identity(objects)
    with IndexWriter(output, identity, options.rebuild) as writer:
        if scan is None:
            counts = index_shards(root, writer, model, progress)
        else:
            counts = index_folder(root, scan, writer, model, progress)
        writer.finish()
    return counts, model.name


def _cached(
    root: Path, output: Path, options: Options, progress: Callable[[int], Callable[[int], object]]
) -> tuple[Counts, str]:
    if options.objects or options.int8 or options.model:
        raise ConfigError("--embeddings are the teacher's; leave --model, --int8 and --objects out")
    assert options.embeddings is not None
    embeddings = user_path(options.embeddings).resolve()
    if not is_shards(root):
        raise DataError(f"{root}: no shards (no manifest.json), which --embeddings are of")
    teacher = options.teacher or default_teacher(embeddings)
    identity = cached_identity(
        embeddings, partial(teacher_text_space, user_path(teacher)), _known(output)
    )
    with IndexWriter(output, identity, options.rebuild) as writer:
        counts = index_cached(root, embeddings, writer, progress)
        writer.finish()
    return counts, identity.made_with


def _known(output: Path) -> IndexIdentity | None:
    """The identity of the index that is there; None without one, or for a damaged one."""
    try:
        return read_identity(output)[0]
    except DataError:
        return None


def _recorded_model(output: Path) -> str | None:
    """Address of the model that made the index that is there; None without one."""
    try:
        return Index.open(output).model
    except KdeovError:
        return None


def _progress(stack: ExitStack, total: int) -> Callable[[int], object]:
    advance = stack.enter_context(progress_on_terminal("index", total))

    def on_progress(count: int) -> None:
        for _ in range(count):
            advance()

    return on_progress


def _changes(counts: Counts) -> str:
    parts = {"new": counts.embedded, "moved or copied": counts.kept, "gone": counts.gone}
    said = [f"{count:,} {what}" for what, count in parts.items() if count]
    return f" ({', '.join(said)})" if said else " (as before)"
