"""The bench of searches measures real indexes and commands."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.bench.search import suite
from pipeline.bench.sizes import SearchSizes
from pipeline.cli.main import app

SMALL = SearchSizes(
    rows=3000, dim=32, searches=2, image_size=64, images=20, known_images=30, repeats=1, starts=1
)
FLOORS = {"index_share": 0.85}
CEILINGS = {"open_ms": 50, "search_ms": 150, "search_memory": 1.3, "index_again_s": 2.0,
            "search_s": 0.7}  # fmt: skip
WITHOUT_BAR = {"first_search_ms", "memory_share"}


@pytest.mark.slow
def test_the_command_measures_every_figure_against_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SIZES", SMALL)
    path = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["bench", "search", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert {name: row["bar"] for name, row in rows.items()} == {
        **FLOORS, **CEILINGS, **dict.fromkeys(WITHOUT_BAR),
    }  # fmt: skip
    assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in rows.values())
    missed = [name for name, row in rows.items() if not row["ok"]]
    assert result.exit_code == (1 if missed else 0), result.output


def test_the_sizes_of_the_command_are_those_of_the_bars() -> None:
    assert (suite.SIZES.rows, suite.SIZES.dim) == (1_000_000, 512)
    assert suite.SIZES.known_images == 10_000
