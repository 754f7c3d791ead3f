"""The page as people see it: in Chromium, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.browser import Page, chromium_page
from tests.helpers.serving import drawn_image


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page() as found:
        yield found


def text_of(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).innerText")


def submit(page: Page, form: str, field: str, value: str) -> None:
    page.evaluate(
        f"document.querySelector({field!r}).value = {value!r};"
        f" document.querySelector({form!r}).requestSubmit()"
    )


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)]
)
def test_a_person_classifies_locates_detects_and_searches(
    page: Page, address: str, tmp_path: Path, width: int, dark: bool
) -> None:
    page.problems.clear()
    page.requests.clear()
    page.open(f"{address}/", width, dark)
    page.wait_for("!document.querySelector('#search').hidden")
    image = tmp_path / "a.png"
    image.write_bytes(drawn_image(5, (640, 480)))
    page.evaluate("document.querySelector('#labels').value = 'a red ball, a <b>dog</b>, café'")
    page.choose_file("#file", image)
    page.wait_for("document.querySelectorAll('#scores li').length === 3")
    page.wait_for("document.querySelector('#caption').innerText.includes('object')")
    assert "a <b>dog</b>" in text_of(page, "#scores")
    assert text_of(page, "#scores").count("%") == 3
    page.evaluate("document.querySelector('#scores button').click()")
    page.wait_for("document.querySelector('#caption').innerText.includes('cosines')")
    submit(page, "#search-form", "#query", "a red ball")
    page.wait_for("document.querySelectorAll('#hits li').length === 12")
    page.wait_for("[...document.querySelectorAll('#hits img')].every(i => i.naturalWidth > 0)")
    assert page.too_wide() == []
    assert page.problems == []
    assert {request.split(":")[0] for request in page.requests} <= {"http", "blob", "data"}
    outside = [r for r in page.requests if r.startswith("http") and not r.startswith(address)]
    assert outside == []
    page.screenshot(tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png")


def test_a_broken_file_and_a_bad_label_are_explained_on_the_page(
    page: Page, address: str, tmp_path: Path
) -> None:
    page.open(f"{address}/", 360)
    broken = tmp_path / "broken.png"
    broken.write_bytes(drawn_image(0)[:200])
    page.choose_file("#file", broken)
    page.wait_for("document.querySelector('#image-error').innerText.includes('unreadable')")
    assert page.evaluate("document.querySelectorAll('#scores li').length") == 0
    good = tmp_path / "good.png"
    good.write_bytes(drawn_image(1))
    page.choose_file("#file", good)
    page.wait_for("document.querySelectorAll('#scores li').length === 3")
    submit(page, "#label-form", "#labels", "cat, cat")
    page.wait_for("document.querySelector('#image-error').innerText.includes('twice')")
    assert page.too_wide() == []
