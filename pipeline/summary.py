"""The tables of `kdeov summary`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.console import stdout
from pipeline.reranking import gain_verdict
from pipeline.results import RERANKED, Results, Value, gain, percent, score

WIDTH = 110  # columns where there is no terminal to ask


def print_summary(results: Results) -> None:
    """Teacher against student, what re-ranking changes, and what the numbers were measured with."""
    console = stdout if stdout.is_terminal else Console(width=WIDTH)
    for table in (_comparison(results), _reranking(results)):
        if table is not None:
            console.print(table)
    for line in (*_remarks(results), *results.protocols()):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _comparison(results: Results) -> Table:
    table = _table(f"{results.run.name} on {results.dataset.name}", "test split")
    for column in ("teacher", "student", "retained"):
        table.add_column(column, justify="right")
    for row in results.comparison():
        table.add_row(row.label, score(row.teacher), score(row.student), percent(row.retained))
    ours, theirs = results.efficiency["student"], results.efficiency["teacher"]
    reference = results.efficiency["reference"]
    table.add_section()
    for label, key, form in (
        ("parameters", "parameters", "{:,}"),
        ("one picture", "latency_ms", "{:.1f} ms"),
    ):
        table.add_row(label, form.format(theirs[key]) if theirs else "", form.format(ours[key]), "")
    table.add_row(
        f"one picture at {reference['image_size']} px, {reference['name']}",
        f"{reference['latency_ms']:.1f} ms",
        f"{reference['student_latency_ms']:.1f} ms",
        f"{reference['speedup']:.1f}x faster",
    )
    return table


def _reranking(results: Results) -> Table | None:
    scores: dict[str, Any] = results.reranked
    if not scores:
        return None
    title = f"Re-ranking the first {scores['count']} by fusion {scores['verdict']}"
    table = _table(title, "text to picture")
    for column in ("index", "re-ranked", "gain", "verdict"):
        table.add_column(column, justify="right")
    for key, label in RERANKED.items():
        change = Value.of(scores, f"gain_{key}")
        table.add_row(
            label,
            score(Value.of(results.retrieval["student"], key)),
            score(Value.of(scores, key)),
            gain(change),
            gain_verdict(change.bounds) if change and change.bounds else "",
        )
    return table


def _remarks(results: Results) -> list[str]:
    """What is not in the tables, and why."""
    remarks = []
    if results.retrieval and not results.run.fusion_is_trained:
        remarks.append("Nothing is re-ranked: fusion was not trained (distill.losses.fusion is 0).")
    if left_out := results.zero_shot.get("left_out"):
        remarks.append(f"Pictures of classes that zero_shot.class_names leaves out: {left_out}.")
    return remarks


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    return table
