"""Numbers in the prose are those of the committed metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

ROWS = {
    "zero-shot top-1": ("zero_shot", "top1"),
    "zero-shot top-1, held-out classes": ("zero_shot", "heldout_top1"),
    "linear probe top-1": ("linear_probe", "top1"),
    "image to text R@5": ("retrieval", "i2t_r5"),
    "text to image R@5": ("retrieval", "t2i_r5"),
}
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md"]


def metrics(stage: str) -> dict[str, Any]:
    return json.loads((ROOT / "metrics" / f"{stage}.json").read_text(encoding="utf-8"))


def cell(values: dict[str, Any], key: str) -> str:
    low, high = values["interval"][key]
    return f"{values[key]:.3f} [{low:.3f}, {high:.3f}]"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("row", ROWS)
def test_results_in_prose_are_the_committed_metrics(page: Path, row: str) -> None:
    stage, key = ROWS[row]
    found = metrics(stage)["scenes"]
    teacher, student = (cell(found[side], key) for side in ("teacher", "student"))
    line = f"| {row} | {teacher} | {student} | {found['retained'][key]:.1%} |"
    assert line in page.read_text(encoding="utf-8").splitlines()


def test_the_gain_of_reranking_is_the_committed_one() -> None:
    found = metrics("retrieval")["scenes"]["reranked"]
    for rank in ("r1", "r5"):
        low, high = found["interval"][f"gain_t2i_{rank}"]
        gain = f"R@{rank[1:]} {found[f'gain_t2i_{rank}']:+.3f} [{low:+.3f}, {high:+.3f}]"
        assert gain in " ".join(PAGES[1].read_text(encoding="utf-8").split())


def test_size_and_speed_are_the_committed_ones() -> None:
    efficiency = metrics("efficiency")
    reference, student = efficiency["reference"], efficiency["student"]
    speedup = f"{reference['speedup']:.0f} times"
    rows = PAGES[1].read_text(encoding="utf-8")
    assert (
        f"| {student['parameters'] / 1e6:.2f} M | {reference['student_macs'] / 1e9:.3f} G "
        f"| {reference['student_latency_ms']:.1f} ms |" in rows
    )
    assert (
        f"| {reference['parameters'] / 1e6:.1f} M | {reference['macs'] / 1e9:.2f} G "
        f"| {reference['latency_ms']:.0f} ms ({speedup}) |" in rows
    )
    assert re.search(
        rf"it is {speedup} as fast as CLIP's ViT-B/32", PAGES[0].read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("row", ["AP50", "recall of 10 boxes", "true boxes, student's", "teacher"])
def test_detection_in_prose_is_the_committed_one(row: str) -> None:
    found = metrics("detection")["scenes"]
    for group in ("base", "held_out"):
        true = found["true_boxes"][group]
        value = {
            "AP50": cell(found[group], "ap50"),
            "recall of 10 boxes": cell(found[group], "ar50_10"),
            "true boxes, student's": cell(true["student"], "top1"),
            "teacher": cell(true["teacher"], "top1"),
        }[row]
        lines = PAGES[1].read_text(encoding="utf-8").splitlines()
        assert any(row in line and f"| {value} |" in line for line in lines)


def test_readme_has_the_committed_precision_of_boxes() -> None:
    found = metrics("detection")["scenes"]
    base, held_out = (f"{found[group]['ap50']:.3f}" for group in ("base", "held_out"))
    text = " ".join(PAGES[0].read_text(encoding="utf-8").split())
    assert f"an AP50 of {base} on the 56 classes" in text and f"of {held_out} on 8 held-out" in text
