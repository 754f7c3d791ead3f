"""`kdeov bench gpu` without a GPU. `tests/gpu` runs it on one, and on a CPU as a bare machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline.bench.figures import Figure, print_figures
from pipeline.cli.main import app


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_bench_prints_why_it_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["bench", "gpu", "--json", str(path)])
    assert result.exit_code == 0 and not path.exists()
    assert torch.__version__ in result.output and "CUDA" in result.output


def test_the_json_names_the_card(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert print_figures("Title", [Figure("step_share", 0.99, 0.98, "")], path, {"card": "X1"})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "machine": {"card": "X1"},
        "step_share": {"value": 0.99, "bar": 0.98, "ok": True},
    }
