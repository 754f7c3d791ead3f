"""Names from outside are text on the page, and a page of long ones stays within a window."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import escape

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import read_arrays, write_arrays
from pipeline.report.report import write_page
from pipeline.report.results import Results
from tests.helpers.results import edit_json

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]
NAMES = [
    "<script>alert(1)</script>", "\" onload=\"alert(1)", "{{ run.name }}", "$\\frac{$", "R&B",
    "日本", "שלום", "🦄", "two\nlines", "x" * 400,
]  # fmt: skip


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


def rename(paths: Layout, names: list[str]) -> None:
    """Gives the first classes other names, and lets the first test images be of them."""
    path = paths.evaluation / "zero_shot" / "predictions.npz"
    arrays = read_arrays(path)
    classes = [*names, *arrays["names"].tolist()[len(names) :]]
    labels = np.arange(len(arrays["labels"])) % len(names)
    write_arrays(path, **arrays | {"names": classes, "labels": labels, "student": labels})


def test_class_names_are_text_on_the_page(copied: Trained) -> None:
    paths, params = copied
    rename(paths, NAMES)
    more = params.model_copy(update={"report": params.report.model_copy(update={"examples": 12})})
    write_page(Results.read(params, paths), more, paths)
    page = paths.report.read_text(encoding="utf-8")
    elements = Elements(page)
    assert "script" not in elements.tags and "onload" not in elements.attributes
    for name in NAMES:
        assert name in elements.text
        assert f"<bdi>{escape(name)}</bdi>" in page


def test_params_show_letters_of_any_script(copied: Trained) -> None:
    paths, params = copied
    edit_json(
        paths.student / "run.json",
        lambda v: v["params"].update(prepare={"source": "scenes", "path": "写真 & <b>"}),
    )
    write_page(Results.read(params, paths), params, paths)
    assert "path: 写真 &amp; &lt;b&gt;" in paths.report.read_text(encoding="utf-8")
    assert json.loads((paths.student / "run.json").read_text(encoding="utf-8"))["params"]["prepare"]
