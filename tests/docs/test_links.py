"""Links of the prose lead somewhere, and no page is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.pages import anchors, generated, links, name, pages

PAGES = pages()
# paths of this project as prose writes them
PATH = re.compile(r"`((?:kdeov|pipeline|stages|tests)/[\w/.-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists():  # a test of the command compares what is generated
            assert name(path) in generated(), link
        elif anchor:
            assert anchor in anchors(path), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # it names old paths too
        return
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists() or path in generated() or "NAME" in path, path


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert {name(page) for page in (ROOT / "docs").glob("*.md")} <= linked


def test_the_readme_is_at_most_170_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
