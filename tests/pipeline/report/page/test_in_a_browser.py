"""The report as people see it: wide and narrow, light and dark, of few classes and of 10,000."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import Page, chromium_page

pytestmark = pytest.mark.slow  # the first of these tests trains

MAX_BYTES = 3_000_000
PAINTED = "performance.getEntriesByName('first-contentful-paint').length > 0"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page() as found:
        yield found


@pytest.fixture(params=["reported", "many_classes"])
def report(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def contrast(page: Page, selector: str) -> float:
    """The contrast of an element's text with the page's ground, as WCAG 2.2 defines it."""
    return page.evaluate(
        f"""(() => {{
          const light = color => {{
            const parts = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          }};
          const element = document.querySelector({selector!r});
          const style = getComputedStyle(element);
          const ink = element.closest('svg') ? style.fill : style.color;
          const box = element.closest('.box, .card') ?? document.body;
          const [low, high] = [light(ink), light(getComputedStyle(box).backgroundColor)].sort(
            (a, b) => a - b);
          return (high + 0.05) / (low + 0.05);
        }})()"""
    )


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)]
)
def test_the_report_is_whole_on_any_screen(
    page: Page, report: Any, screenshots: Path, width: int, dark: bool
) -> None:
    page.problems.clear()
    page.requests.clear()
    page.open(report.paths.report.as_uri(), width, dark)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.too_wide() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert {request.split(":")[0] for request in page.requests} <= {"file", "data"}
    assert len([r for r in page.requests if r.startswith("file")]) == 1
    assert page.evaluate("document.querySelectorAll('svg.flow').length") == 2
    shown = "getComputedStyle(document.querySelector('svg.flow.tall')).display"
    assert page.evaluate(shown) == ("block" if width < 600 else "none")
    texts = ["h1", ".soft", "td.wide", "svg.chart text", "svg.flow text", "summary", "nav a"]
    low = [(text, value) for text in texts if (value := contrast(page, text)) < 4.5]
    assert low == []
    name = f"{report.paths.root.parent.name}-{width}-{'dark' if dark else 'light'}.png"
    page.screenshot(screenshots / name)


def test_the_report_paints_within_a_second(page: Page, report: Any) -> None:
    times = []
    for _ in range(5):  # the fastest, since other processes may be busy
        page.open("about:blank", 1280)
        page.open(report.paths.report.as_uri(), 1280)
        page.wait_for(PAINTED)
        times.append(
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
    assert min(times) <= 1000


def test_the_report_is_small_however_many_classes_there_are(report: Any) -> None:
    assert report.paths.report.stat().st_size <= MAX_BYTES
    assert report.seconds < 120
    figures = report.paths.report.parent / "figures"
    assert sum(path.stat().st_size for path in figures.iterdir()) < MAX_BYTES


def test_names_with_markup_are_text(page: Page, many_classes: Any) -> None:
    page.open(many_classes.paths.report.as_uri(), 1280)
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('[onload], img[src=x]').length") == 0
    text = page.evaluate("document.body.textContent")
    for name in ("<script>alert(1)</script>", "</svg><img src=x>", "R&B", "שלום עולם", "مرحبا"):
        assert name in text
    assert page.evaluate(
        "[...document.querySelectorAll('td bdi')].some(b => b.textContent === '{{ run.name }}')"
    )
