"""The scaling plan: its arithmetic, its inputs, and that README shows what the code makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bench.cluster.unit_costs import unit_figures
from pipeline.bench.scaling.inputs import Inputs
from pipeline.bench.scaling.scaling import rows_of_data, rows_of_epoch, scaling_markdown, step_of
from pipeline.bench.sizes import ClusterSizes
from pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["images=1e6", "batch=4096", "num_streams=512", "buffer=65536"]


def test_readme_shows_the_plan_that_the_code_makes() -> None:
    readme = (ROOT / "README.md").read_text()
    for table in scaling_markdown(Inputs()).split("\n\n"):
        assert table in readme, "put the output of `kdeov scaling` in README.md"


def test_storage_and_teacher_are_what_one_image_costs_times_images() -> None:
    rows = {row.what: row.values[0] for row in rows_of_data(Inputs())}
    assert rows["image shards, TB"] == pytest.approx((26_000 + 1_791) / 1000)
    assert rows["teacher shards, TB"] == pytest.approx((5 * 1024 + 2_590) / 1000)
    assert rows["teacher, GPU-hours"] == pytest.approx(4.68e9 / 4_602 / 0.958 / 3600)
    assert rows["teacher, $"] == 2 * rows["teacher, GPU-hours"]


def test_an_epoch_takes_its_steps_and_more_gpus_gain_less_than_their_number() -> None:
    inputs = Inputs().changed(SMALL)
    rows = {row.what: row.values for row in rows_of_epoch(inputs, [8, 64])}
    few, many = rows["epoch, hours"]
    assert few == pytest.approx(rows["steps"][0] * step_of(inputs, 8).alone / 3600)
    assert few / 8 < many < few
    assert all(
        c > a for c, a in zip(rows["epoch with coupled losses, hours"], (few, many), strict=True)
    )
    assert rows["images a GPU, fewest"] == rows["images a GPU, most"]
    assert rows["images a GPU, most"][0] * 8 >= inputs.images


def test_the_slower_of_gpu_and_its_cores_makes_the_step() -> None:
    few, many = (step_of(Inputs().changed([f"cores={n}"]), 64) for n in (2, 64))
    assert few.alone - few.gradients == few.load > few.compute
    assert many.alone - many.gradients == many.compute > many.load


def test_inputs_said_to_be_measured_are_what_the_bench_measures(tmp_path: Path) -> None:
    sizes = ClusterSizes(micro_batch_size=8, loaded=256)
    for figure in unit_figures(tmp_path, sizes):
        if figure.name == "loader_rate":  # of the machine
            assert figure.value > 0
        else:
            assert figure.value == pytest.approx(getattr(Inputs(), figure.name), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "picturs=3"], "picturs is no input of the plan; did you mean images"),
        (["--set", "images=many"], "images=many: give a number above 0"),
        (["--set", "views=-1"], "views=-1: give a number above 0"),
        (["--set", "upload=inf"], "upload=inf: give a number above 0"),
        (["--gpus", "7"], "8192 streams cannot be shared by 7 GPUs"),
        (["--gpus", "0"], "cannot be shared by 0 GPUs"),
    ],
)
def test_what_makes_no_plan_is_told_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["scaling", *arguments])
    assert result.exit_code == 1 and not result.stdout
    assert words in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_command_compares_gpus_and_says_what_was_chosen() -> None:
    changes: list[Any] = [word for change in SMALL for word in ("--set", change)]
    result = CliRunner().invoke(app, ["scaling", "--gpus", "8", "--gpus", "16", *changes])
    assert result.exit_code == 0
    assert "| an epoch, by GPUs | 8 | 16 | from |" in result.stdout
    assert re.search(r"\| `images` \| images \| 1,000,000 \| chosen \|", result.stdout)
