"""Params that prose names are keys of the schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipeline.config.params import Params
from pipeline.config.renamed import RENAMED
from tests.helpers import ROOT
from tests.helpers.pages import name, pages, prose

# the changelog lists old names beside the new ones
PAGES = [page for page in pages() if page.name != "CHANGELOG.md"]
KEY = re.compile(rf"`((?:{'|'.join(Params.model_fields)})(?:\.\w+)+)(?:[=:][^`]*)?`")
# files and modules whose names begin like a section
FILES = (".j2", ".html", ".py", ".json", ".yaml", ".md")


def inner(annotation: Any) -> Any:
    """The section in `Section | None`, or the annotation."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), annotation)


def is_key(dotted: str) -> bool:
    """Whether a dotted name is a section or a key of `params.yaml`."""
    model: Any = Params
    for part in dotted.split("."):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = inner(fields[part].annotation)
    return True


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_param_that_a_page_names_exists(page: Path) -> None:
    named = {key for key in KEY.findall(prose(page)) if not key.endswith(FILES)}
    assert [key for key in sorted(named) if not is_key(key)] == []


def test_a_wrong_name_would_be_noticed() -> None:
    assert KEY.findall("`distill.epochs` and `embed.views=4`") == ["distill.epochs", "embed.views"]
    assert is_key("distill.losses.feature") and is_key("teacher.tiny.seed")
    assert not is_key("distill.lanes") and not is_key("distill.epochs.more")


def test_the_changelog_lists_every_renamed_key() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        section = old.rpartition(".")[0]
        assert f"| `{old}` | `{section}.{new}` |" in text, old
        assert is_key(f"{section}.{new}"), old
