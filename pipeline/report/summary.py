"""The tables of `kdeov summary`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.console import stdout
from pipeline.evaluation.shared.reranking import gain_verdict, rerank_verdict
from pipeline.report.advice import warnings
from pipeline.report.results import (
    RERANK_METRICS,
    MetricValue,
    Results,
    format_gain,
    format_score,
    format_speedup,
)

WIDTH = 110  # columns, if standard output is no terminal


def print_summary(results: Results) -> None:
    """Prints teacher against student, the gains of re-ranking, remarks, and protocols."""
    console = stdout if stdout.is_terminal else Console(width=WIDTH)
    for table in (_comparison(results), _reranking(results), _detection(results)):
        if table is not None:
            console.print(table)
    detection = [results.detection.protocol()] if results.detection else []
    for line in (*_remarks(results), *results.protocols(), *detection):
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _comparison(results: Results) -> Table:
    table = _table(f"{results.run.name} on {results.dataset.name}", "test split")
    for column in results.columns:
        table.add_column(column, justify="right")
    for row in results.table():
        table.add_row(*map(escape, row))
    table.add_section()
    for label, key, template in (
        ("parameters", "parameters", "{:,}"),
        ("latency of one image", "latency_ms", "{:.1f} ms"),
    ):
        towers = [results.efficiency.get(column) for column in results.columns]
        table.add_row(label, *(template.format(tower[key]) if tower else "" for tower in towers))
    return table


def _speed(results: Results) -> str:
    reference = results.efficiency["reference"]
    return (
        f"One image of {reference['image_size']} px: {reference['student_latency_ms']:.1f} ms, "
        f"{reference['name']} {reference['latency_ms']:.1f} ms; the student is "
        f"{format_speedup(reference['speedup'])}."
    )


def _reranking(results: Results) -> Table | None:
    scores: dict[str, Any] = results.reranked
    if not scores:
        return None
    title = f"Re-ranking the first {scores['count']} by fusion {rerank_verdict(scores['verdict'])}"
    table = _table(title, "text to image")
    for column in ("index", "re-ranked", "gain", "verdict"):
        table.add_column(column, justify="right")
    for key, label in RERANK_METRICS.items():
        change = MetricValue.of(scores, f"gain_{key}")
        table.add_row(
            label,
            escape(format_score(MetricValue.of(results.retrieval["student"], key))),
            escape(format_score(MetricValue.of(scores, key))),
            escape(format_gain(change)),
            gain_verdict(change.bounds) if change and change.bounds else "",
        )
    return table


def _detection(results: Results) -> Table | None:
    if results.detection is None:
        return None
    title = f"Detection with {results.detection.values['classes']:,} names"
    table = _table(title, "test split")
    for column in results.detection.columns:
        table.add_column(column, justify="right")
    for label, cells in results.detection.rows():
        table.add_row(label, *(escape(str(cell)) for cell in cells))
    return table


def _remarks(results: Results) -> list[str]:
    """Warnings, speed, deployed forms, and why parts of the tables are missing."""
    remarks = [*warnings(results), _speed(results)]
    if results.deployed is not None:
        remarks.append(results.deployed.line())
    remarks += results.remarks()
    remarks += results.detection.remarks() if results.detection else []
    if results.retrieval and not results.run.fusion_is_trained:
        remarks.append("No re-ranking: fusion was not trained (distill.fusion_epochs is 0).")
    return remarks


def _table(title: str, first: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column(first)
    return table
