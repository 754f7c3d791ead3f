"""The commands that index images and search them: their arguments. What they do is imported when
they run, so that `kdeov --help` stays fast.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

INDEX = Path("out/index")
VARIABLE = "KDEOV_INDEX"
ModelAddress = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="An export folder, a student folder or a model of MLflow; out/export by default.",
    ),
]


def index(
    folder: Annotated[
        Path, typer.Argument(help="A folder of images, or of shards with their manifest.json.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", envvar=VARIABLE, help="The index, a folder.")
    ] = INDEX,
    objects: Annotated[
        bool, typer.Option("--objects", help="Index regions too; needs a model with a box head.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Make the index again beside the old one, which it then replaces."
        ),
    ] = False,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="The teacher's embeddings of these shards, such as out/embeddings/val: no image "
            "is decoded."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="The folder of that teacher; by default the one beside --embeddings."),
    ] = None,
    model: ModelAddress = None,
    int8: Annotated[bool, typer.Option("--int8", help="Use the INT8 file of the export.")] = False,
) -> None:
    """Index the images of a folder, for `kdeov search`.

    A second run embeds new and changed images alone; moved ones keep their embeddings, and those
    that are gone are left out. A run that was stopped goes on. The exit status is 2 if some images
    could not be read; the others are indexed.
    """
    from pipeline.cli.inference.search.index import Options, make_index

    make_index(folder, output, Options(objects, rebuild, embeddings, teacher, model, int8))


def search(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INDEX] [TEXT]...",
            help='An index, if none is named with -i, and what to find: "two dogs in the snow".',
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", "-i", help=f"The index; {INDEX} by default, or ${VARIABLE}."),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="An image to find others like it; may be repeated.")
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(help="A text that should not fit; may be repeated.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help='Search some images alone: "folder=2024/alps, name=IMG_*, after=2024-05-01, '
            'before=2025, date=2024-06".'
        ),
    ] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Images to show.")] = 10,
    probability: Annotated[
        float | None,
        typer.Option(
            "--probability",
            "-p",
            min=0,
            max=1,
            help="Show an image only if fewer than this share of other images would score as high "
            "for this query, such as 0.01.",
        ),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Search regions, and show where in the image.")
    ] = False,
    ann: Annotated[
        bool, typer.Option("--ann", help="Search approximately, with faiss: for many millions.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="A .jpg to write, with the images side by side.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    templates: Annotated[
        list[str] | None,
        typer.Option(help="A prompt with {} for the text; may be repeated. Or the name of a set."),
    ] = None,
    model: ModelAddress = None,
) -> None:
    """Find the images of an index that fit a text best.

    Prints a score, how likely another image would have it by accident where the model can tell, and
    the path. Without --model, the model that made the index is used.
    """
    from pipeline.cli.inference.search.search import Query, Shown, named_index, search_index

    folder, words = named_index(index or os.environ.get(VARIABLE), text or [], INDEX)
    query = Query(
        " ".join(words), like or [], minus or [], where or [], templates, k, probability,
        objects, ann,
    )  # fmt: skip
    search_index(folder, query, Shown(as_json, sheet), model)


def add_commands(app: typer.Typer) -> None:
    """Adds `index` and `search`."""
    for command in (index, search):
        app.command()(command)
