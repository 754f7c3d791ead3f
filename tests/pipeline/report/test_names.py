"""Names from outside are text on the page, and a page of long ones stays within a window."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from markupsafe import escape

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.page.render import MAX_NAME
from pipeline.report.report import write_page
from pipeline.report.results import Results
from tests.helpers.predicted import HOSTILE
from tests.helpers.results import edit_json

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


class Elements(HTMLParser):
    """Tags, attributes of images, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_class_names_are_text_on_the_page(many_classes: Any) -> None:
    page = many_classes.text
    elements = Elements(page)
    assert "script" not in elements.tags and "onload" not in elements.attributes
    for name in HOSTILE:
        assert name[:MAX_NAME] in elements.text
        assert f"<bdi>{escape(name[:MAX_NAME])}" in page


def test_params_show_letters_of_any_script(copied: Trained) -> None:
    paths, params = copied
    edit_json(
        paths.student / "run.json",
        lambda v: v["params"].update(prepare={"source": "scenes", "path": "写真 & <b>"}),
    )
    write_page(Results.read(params, paths), params, paths)
    assert "path: 写真 &amp; &lt;b&gt;" in paths.report.read_text(encoding="utf-8")
    assert json.loads((paths.student / "run.json").read_text(encoding="utf-8"))["params"]["prepare"]
