"""`kdeov locate`: where in an image a text fits best, as a heat map and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kdeov.errors import ConfigError
from pipeline.cli.inference.classify import ModelOption, chosen_templates
from pipeline.cli.inference.labels import label_embeddings
from pipeline.cli.inference.models import open_model
from pipeline.cli.inference.overlay import require_own, save_overlay
from pipeline.cli.inference.place import Place
from pipeline.cli.inference.stream import read_image
from pipeline.console import printable


def locate(
    image: Annotated[Path, typer.Argument(help="The image.")],
    text: Annotated[str, typer.Option(help="What to locate, such as a red bicycle.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The PNG to write; IMAGE.heatmap.png in this folder by default."
        ),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(help="A prompt with {} for the text, or the name of a set; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    model: ModelOption = None,
) -> None:
    """Draw where in an image a text fits best, and say it in words.

    The map compares places of one image with each other; it has a best place also for what the
    image does not show, with a lower cosine.
    """
    if not text.strip():
        raise ConfigError('--text is empty; give what to locate, such as --text "a red ball"')
    target = output if output is not None else Path(f"{image.stem}.heatmap.png")
    if target.suffix.lower() != ".png":
        raise ConfigError(f"--output {target}: the heat map is a PNG; give a name that ends so")
    require_own(target)
    opened = open_model(model)
    pixels = read_image(image)
    prompts = chosen_templates(templates) or opened.templates
    classes = label_embeddings(opened, [text], prompts)
    heatmap = opened.heatmap(pixels, classes)[0]
    place = Place.of(heatmap, pixels)
    save_overlay(target, pixels, heatmap, place)
    if as_json:
        content = {"image": str(image), "text": text, **place.to_dict(), "heatmap": str(target)}
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    typer.echo(f"{printable(text)}: {place.in_words()}")
    typer.echo(f"heat map: {printable(str(target))}")
