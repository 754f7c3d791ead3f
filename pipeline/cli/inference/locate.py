"""`kdeov locate`: where in an image a text fits best, as a heat map and in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from kdeov.errors import ConfigError
from kdeov.runtime.images import read_image
from kdeov.weights.folder import user_path
from pipeline.cli.inference.overlay import require_own, save_overlay
from pipeline.cli.inference.place import Place
from pipeline.console import printable
from pipeline.inference.labels import label_embeddings
from pipeline.inference.models import open_model


def locate_text(
    path: Path,
    text: str,
    target: Path,
    templates: Sequence[str] | str | None,
    as_json: bool,
    address: str | None,
) -> None:
    """Writes a heat map of a text over an image, and prints where the text fits best.

    Args:
        path: The image.
        text: What to locate.
        target: The PNG to write.
        templates: Prompts; None takes the model's.
        as_json: Whether to print JSON.
        address: Of the model.

    Raises:
        KdeovError: Image, text or model cannot be used, or the target is somebody else's.
    """
    if not text.strip():
        raise ConfigError('--text is empty; give what to locate, such as --text "a red ball"')
    if target.suffix.lower() != ".png":
        raise ConfigError(f"--output {target}: the heat map is a PNG; give a name that ends so")
    target = user_path(target)
    require_own(target)
    image = read_image(path)
    model = open_model(address)
    classes = label_embeddings(model, [text], templates)
    heatmap = model.heatmap(image, classes)[0]
    place = Place.of(heatmap, image)
    save_overlay(target, image, heatmap, place)
    if as_json:
        content = {"image": str(path), "text": text, **place.to_dict(), "heatmap": str(target)}
        typer.echo(json.dumps(content))
        return
    typer.echo(f"{printable(text)}: {place.in_words()}")
    typer.echo(f"heat map: {printable(str(target))}")
