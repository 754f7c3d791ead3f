"""`kdeov search`: the images of an index that fit a text best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from kdeov.errors import ConfigError, DataError, KdeovError
from kdeov.weights.folder import user_path
from pipeline.console import printable
from pipeline.inference.labels import chosen_templates
from pipeline.search.exact import top_rows
from pipeline.search.identity import IDENTITY, require_same_model
from pipeline.search.index import Finder, Hit, Index
from pipeline.search.model import SearchModel
from pipeline.search.query import like_embedding, query_embedding, text_embeddings
from pipeline.search.where import Where

Templates = Sequence[str] | str | None


@dataclass(frozen=True)
class Query:
    """What is searched, as the command line gives it.

    Attributes:
        text: What should fit; may be empty.
        like: Images that should be alike.
        minus: Texts that should not fit.
        where: Filters.
        templates: Prompts for texts; None takes them as they are.
        k: Number of images.
        probability: Highest probability of a hit.
        objects: Whether regions are searched.
        ann: Whether the search is approximate.
    """

    text: str
    like: Sequence[str]
    minus: Sequence[str]
    where: Sequence[str]
    templates: Sequence[str] | None
    k: int
    probability: float | None
    objects: bool
    ann: bool


@dataclass(frozen=True)
class Shown:
    """How hits are shown.

    Attributes:
        as_json: Whether to print JSON.
        sheet: A JPEG to draw them into.
    """

    as_json: bool
    sheet: Path | None


def named_index(
    option: str | Path | None, words: Sequence[str], default: Path
) -> tuple[Path, Sequence[str]]:
    """The index of a search, and the words of its text.

    Args:
        option: The index, where an option or the environment names it.
        words: Arguments; without the option, the first of them may be the index.
        default: Of neither.
    """
    if option is not None:
        return Path(option), words
    if words and (user_path(words[0]) / IDENTITY).is_file():
        return Path(words[0]), words[1:]
    return default, words


def search_index(folder: Path, query: Query, shown: Shown, address: str | None) -> None:
    """Prints the images of an index that fit best.

    Args:
        folder: The index.
        query: What is searched.
        shown: How hits are shown.
        address: Of the model; None is that of the index.

    Raises:
        KdeovError: There is no index, its model is another one, or the query says nothing.
    """
    _require_meaning(query)
    where, templates = Where.parse(query.where), chosen_templates(query.templates)
    index = Index.open(folder)
    if shown.sheet is not None:
        from pipeline.cli.inference.search.sheet import require_drawable

        require_drawable(shown.sheet, index)
    model = _model(index, query, address)
    embedding = _embedding(index, model, query, templates)
    background = _background(index, model, query)
    finder: Finder = top_rows
    if query.ann:
        finder = _approximate(index, embedding)
    hits = index.search(
        embedding, query.k, where, background, query.probability, query.objects, finder
    )
    for rank, hit in enumerate(hits, 1):
        _print(index, rank, hit, shown.as_json)
    if not hits:
        _explain_nothing(index, embedding, where, background, query)
    if shown.sheet is not None and hits:
        from pipeline.cli.inference.search.sheet import draw_sheet

        draw_sheet(shown.sheet, index, hits)
        typer.echo(f"sheet: {printable(str(shown.sheet))}", err=shown.as_json)


def _require_meaning(query: Query) -> None:
    if not query.text.strip() and not query.like:
        raise ConfigError('nothing to find; give a text, such as "two dogs in the snow", or --like')
    if query.objects and query.probability is not None:
        raise ConfigError(
            "--objects and --probability exclude each other: a background holds whole images"
        )
    if query.objects and query.ann:
        raise ConfigError("--ann and --objects exclude each other; give one")


def _model(index: Index, query: Query, address: str | None) -> SearchModel | None:
    """The model of a query: the one that is named, or that made the index; None where the query
    needs none, or none is found.

    Raises:
        KdeovError: It is another one than that of the index, or a text has no model.
    """
    needs_texts = bool(query.text.strip() or query.minus)
    chosen = address
    if chosen is None and index.model is not None and _is_there(index.model):
        chosen = index.model
    try:
        model = SearchModel(chosen, _precision(index, chosen))
    except KdeovError:
        if address is not None or needs_texts:
            raise
        return None
    if needs_texts:
        require_same_model(index.identity, model, images=False, where=str(index.folder))
    return model


def _precision(index: Index, address: str | None) -> Any:
    """The precision of the file that embedded the images; fp32 where there is no such file."""
    try:
        if SearchModel(address, "int8").image_digest == index.identity.image_digest:
            return "int8"
    except KdeovError:  # without INT8
        pass
    return "fp32"


def _is_there(address: str) -> bool:
    return not address.startswith("/") or Path(address).is_dir()


def _embedding(
    index: Index, model: SearchModel | None, query: Query, templates: Templates
) -> np.ndarray:
    plus = [like_embedding(index, model, image) for image in query.like]
    texts = [query.text] if query.text.strip() else []
    minus = None
    if texts or query.minus:
        assert model is not None
        made = text_embeddings(model, [*texts, *query.minus], templates)
        plus += list(made[: len(texts)])
        minus = made[len(texts) :] if query.minus else None
    return query_embedding(np.stack(plus), minus)


def _background(index: Index, model: SearchModel | None, query: Query) -> np.ndarray | None:
    """The background of the model that embedded the images; None for regions, and without one."""
    same = model is not None and model.image_digest == index.identity.image_digest
    found = model.background() if model is not None and same and not query.objects else None
    if found is None and query.probability is not None:
        reason = "has no background" if same else "did not embed the images of this index"
        raise DataError(
            f"--probability: the model {reason}; export it again with export.background_images, or "
            "leave it out"
        )
    return found


def _approximate(index: Index, embedding: np.ndarray) -> Finder:
    from pipeline.search.ann import BEST, ApproximateSearch

    finder = ApproximateSearch(index, embedding)
    measured = finder.measured
    typer.echo(
        f"ann: recall@{BEST} {measured.recall:.3f} against the exact search, on "
        f"{measured.queries} queries",
        err=True,
    )
    return finder


def _print(index: Index, rank: int, hit: Hit, as_json: bool) -> None:
    path = str(index.root / hit.path) if index.root is not None else hit.path
    if as_json:
        content: dict[str, Any] = {"rank": rank, "image": path, "score": round(hit.score, 6)}
        if hit.probability is not None:
            content["probability"] = float(f"{hit.probability:.3g}")
        content["date"] = hit.date
        if hit.box is not None:
            content["box"] = list(hit.box)
        typer.echo(json.dumps(content))
        return
    parts = [f"{hit.score:.3f}"]
    if hit.probability is not None:
        parts.append(f"p {hit.probability:.2g}".ljust(9))
    parts.append(printable(path))
    if hit.box is not None:
        parts.append(f"at {' '.join(map(str, hit.box))}")
    typer.echo("  ".join(parts))


def _explain_nothing(
    index: Index,
    embedding: np.ndarray,
    where: Where | None,
    background: np.ndarray | None,
    query: Query,
) -> None:
    best = index.search(embedding, 1, where, background, objects=query.objects)
    if not best:
        typer.echo("no image of the index fits --where", err=True)
        return
    typer.echo(
        f"nothing fits: the best image scores {best[0].score:.3f}, as {best[0].probability:.2g} of "
        f"other images do for this query, more than --probability {query.probability:g}",
        err=True,
    )
