"""The report as one HTML file: values of the run, in the templates of this wing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline.evaluation.shared.reranking import rerank_verdict
from pipeline.report.advice import warnings
from pipeline.report.charts.curves import training_charts
from pipeline.report.charts.efficiency import efficiency_charts
from pipeline.report.charts.flow import flows
from pipeline.report.facts.data import DataFacts
from pipeline.report.facts.provenance import Provenance
from pipeline.report.objects.drawing import MarkedImage
from pipeline.report.page import tables
from pipeline.report.page.gallery import Example, Query
from pipeline.report.page.headline import cards
from pipeline.report.results import Results

TEMPLATES = Path(__file__).parents[1]
MAX_NAME = 160  # letters of a name in a table


@dataclass(frozen=True)
class Parts:
    """What the page shows beside the results.

    Attributes:
        examples: Heat maps.
        queries: Captions with their first hits.
        marked: Images with boxes.
        classes: What `classes_part` gave; None without labels.
        data: Facts on the data.
        provenance: Where the student comes from.
    """

    examples: list[Example]
    queries: list[Query]
    marked: list[MarkedImage]
    classes: dict[str, Any] | None
    data: DataFacts
    provenance: Provenance


def render(results: Results, parts: Parts) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"png": _png, "jpeg": _jpeg, "short": _short}
    return environment.get_template("report.html.j2").render(
        run=results.run,
        dataset=results.dataset,
        contents=_contents(results, parts),
        num_classes=results.zero_shot.get("classes", 0),
        held_out=results.zero_shot.get("held_out_classes", 0),
        retrieval=results.retrieval,
        warnings=warnings(results),
        cards=cards(results),
        flows=flows(results, parts.data.rejected),
        columns=results.columns,
        comparison=results.table(),
        remarks=results.remarks(),
        ceilings=results.ceilings(),
        protocols=results.protocols(),
        reranked=tables.reranked_rows(results),
        rerank_count=results.reranked.get("count"),
        rerank_verdict=rerank_verdict(results.reranked.get("verdict", "")),
        curves=training_charts(results.history),
        efficiency_charts=efficiency_charts(results),
        reference=results.efficiency["reference"]["name"],
        towers=tables.tower_rows(results),
        threads=results.efficiency["threads"],
        file_bytes=results.efficiency["student"]["file_bytes"],
        deployed=results.deployed,
        forms=tables.form_rows(results),
        examples=parts.examples,
        queries=parts.queries,
        detection=results.detection,
        marked=parts.marked,
        classes_part=parts.classes is not None,
        **(parts.classes or {}),
        data=parts.data,
        split_rows=tables.split_rows(parts.data),
        rejection_rows=tables.rejection_rows(parts.data),
        duplicate_rows=tables.duplicate_rows(results),
        provenance=parts.provenance,
        params=yaml.safe_dump(
            tables.used_params(results.run.params), sort_keys=False, allow_unicode=True
        ),
    )


def _contents(results: Results, parts: Parts) -> list[tuple[str, str]]:
    """Anchors of the sections, with their names."""
    found = [
        ("pipeline", "pipeline", True),
        ("metrics", "metrics", True),
        ("reranking", "re-ranking", bool(results.reranked)),
        ("training", "training", True),
        ("classes", "classes", parts.classes is not None),
        ("confusion", "confusion", parts.classes is not None),
        ("calibration", "calibration", parts.classes is not None),
        ("retrieval", "retrieval", bool(parts.queries)),
        ("heat-maps", "heat maps", bool(parts.examples)),
        ("detection", "detection", results.detection is not None),
        ("efficiency", "size and speed", True),
        ("deployed", "deployed forms", results.deployed is not None),
        ("data", "data", True),
        ("provenance", "licenses", True),
        ("params", "params", True),
    ]
    return [(anchor, title) for anchor, title, is_shown in found if is_shown]


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def _jpeg(data: bytes) -> str:
    return _inline(data, "jpeg")


def _png(data: bytes) -> str:
    return _inline(data, "png")


def _inline(data: bytes, kind: str) -> str:
    """A `data:` URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
