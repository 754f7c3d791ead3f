"""docs/params.md is the reference that the schema gives."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.reference import params_markdown


def test_the_committed_reference_is_that_of_the_schema(root: Path) -> None:
    committed = (root / "docs" / "params.md").read_text(encoding="utf-8")
    assert committed == params_markdown(), "run `kdeov params > docs/params.md` and commit"
