"""The page of a comparison, as people see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.compare.comparison import Comparison, MetricRow, ParamRow
from pipeline.compare.page import write_page
from tests.helpers.browser import chromium_page

ODD = "<img src=x onerror=alert(1)> אבג & a_very_long_name_of_a_branch_without_any_space_at_all"


@pytest.fixture
def comparison() -> Comparison:
    """Names from outside, a metric of each kind, a run without a curve."""
    return Comparison(
        before=ODD,
        after="main",
        params=[ParamRow("distill.losses.contrastive", "0.1", ODD), ParamRow("a.b", "—", "1")],
        metrics=[
            MetricRow("zero-shot top-1", 0.5, 0.625, (0.05, 0.2)),
            MetricRow("text to image, median rank", 3, 4, (1.0, 2.0), is_rank=True),
            MetricRow("linear probe top-1", 0.5, None, None, "missing"),
            MetricRow("image to text, R@1", 0.5, 0.25, None, "other data set"),
        ],
        curves={"train_total": ([3.0, 2.0, 1.0], [2.5]), "val_cosine": ([], [0.5, 0.75])},
        remarks=[f"{ODD}: damaged"],
    )


@pytest.mark.slow
def test_the_page_fits_a_phone_in_light_and_dark_and_asks_for_nothing(
    comparison: Comparison, tmp_path: Path
) -> None:
    path = tmp_path / "compare.html"
    write_page(comparison, path)
    with chromium_page() as page:
        for width in (1280, 360):
            for dark in (False, True):
                page.open(path.as_uri(), width, dark)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                # what is wider lies in a box that scrolls
                assert page.evaluate(
                    "[...document.querySelectorAll('main *')].every(element =>"
                    " element.closest('.scroll') ||"
                    " element.getBoundingClientRect().right <= innerWidth + 1)"
                )
                page.screenshot(tmp_path / f"compare-{width}-{'dark' if dark else 'light'}.png")
        assert page.evaluate("document.querySelectorAll('polyline').length") == 3
        assert page.evaluate("document.querySelector('h1').innerText") == f"{ODD} and main"
        text = page.evaluate("document.body.innerText")
        assert "+0.125 [+0.050, +0.200]" in text and "other data set" in text
        assert page.evaluate("document.querySelector('td .worse').innerText") == "worse"
        assert page.problems == [] and {r.split(":")[0] for r in page.requests} <= {"file", "data"}


def test_a_file_that_is_no_page_of_the_command_stays(
    comparison: Comparison, tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "notes.html"
    for content in (b"<!doctype html><title>KDEOV: mine</title>", b"\xff\xfe"):
        path.write_bytes(content)
        with complains(str(path), "give another -o"):
            write_page(comparison, path)
        assert path.read_bytes() == content
    path.unlink()
    with complains(str(tmp_path), "give another -o"):
        write_page(comparison, tmp_path)
    for _ in range(2):
        write_page(comparison, path)
