"""The bench of a student in use measures real exports, towers and commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from pipeline.bench.figures import Figure
from pipeline.bench.run import suite
from pipeline.bench.run.picture import speed_picture
from pipeline.bench.run.towers import reference_tower
from pipeline.bench.sizes import RunSizes
from pipeline.cli.main import app
from pipeline.evaluation.efficiency import count_parameters

SMALL = RunSizes(
    dim=32,
    image_size=64,
    references=(("MobileCLIP2-S0", 8),),
    repeats=1,
    starts=1,
    embed_images=6,
    embed_repeats=1,
)
LATENCIES = {"student_onnx_ms", "student_int8_ms", "mobileclip2_s0_torch_ms",
             "mobileclip2_s0_onnx_ms"}  # fmt: skip
FLOORS = {"float32_against_mobileclip2_s0": 8, "int8_against_mobileclip2_s0": 8,
          "int8_against_float32": 1, "embed_share": 0.85}  # fmt: skip
CEILINGS = {"runtime_start_s": 0.4, "classify_s": 1.0}
WITHOUT_BAR = {"float32_against_mobileclip2_s0_onnx", "int8_against_mobileclip2_s0_onnx"}


@pytest.mark.slow
def test_the_command_measures_every_figure_against_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SIZES", SMALL)
    path, picture = tmp_path / "figures.json", tmp_path / "speed.svg"
    result = CliRunner().invoke(
        app, ["bench", "run", "--json", str(path), "--figure", str(picture)]
    )
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert {name: row["bar"] for name, row in rows.items()} == {
        **FLOORS, **CEILINGS, **dict.fromkeys(LATENCIES | WITHOUT_BAR),
    }  # fmt: skip
    assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in rows.values())
    missed = [name for name, row in rows.items() if not row["ok"]]
    assert result.exit_code == (1 if missed else 0), result.output
    assert all(name in result.output for name in rows)
    shown = "".join(ElementTree.parse(picture).getroot().itertext())
    assert f"{rows['student_int8_ms']['value']:.1f} ms" in shown


def test_the_sizes_of_the_command_have_the_bars_of_the_design() -> None:
    assert dict(suite.SIZES.references) == {"ViT-B-32": 18, "MobileCLIP2-S0": 8}
    assert (suite.SIZES.backbone, suite.SIZES.image_size) == ("yolov8n", 224)


def test_parallel_branches_of_a_reference_are_merged() -> None:
    assert count_parameters(reference_tower("MobileCLIP2-S0")) < 11_406_976  # as open_clip has it


def test_the_picture_has_a_bar_for_each_latency_and_equal_bytes_for_equal_figures() -> None:
    figures = [Figure(name, 12.34, None, "") for name in sorted(LATENCIES - {"student_int8_ms"})]
    picture = speed_picture(figures, SMALL)
    assert picture == speed_picture(figures, SMALL)
    text = "".join(ElementTree.fromstring(picture).itertext())
    assert text.count("12.3 ms") == 3
    assert "MobileCLIP2-S0, PyTorch" in text and "INT8" not in text and "64 px" in text
