"""The scaling plan: its arithmetic, its inputs, and its page in docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bench.cluster.unit_costs import unit_figures
from pipeline.bench.scaling.estimates import (
    rows_of_data,
    rows_of_epoch,
    rows_of_preparing,
    step_of,
)
from pipeline.bench.scaling.inputs import Inputs
from pipeline.bench.scaling.preparation import Preparation, simulate_preparation
from pipeline.bench.sizes import ClusterSizes
from pipeline.cli.main import app
from tests.helpers import ROOT

SMALL = ["images=1e6", "batch=4096", "num_streams=512", "buffer=65536"]


def test_docs_have_the_page_that_the_command_prints() -> None:
    result = CliRunner().invoke(app, ["scaling"])
    assert result.exit_code == 0
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert page == result.stdout, "run `kdeov scaling > docs/scaling.md`"


def test_storage_and_teacher_are_what_one_image_costs_times_images() -> None:
    rows = {row.name: row.values[0] for row in rows_of_data(Inputs())}
    assert rows["image shards, TB"] == pytest.approx((26_000 + 1_791) / 1000)
    assert rows["teacher shards, TB"] == pytest.approx((5 * 1024 + 2_590) / 1000)
    assert rows["teacher, GPU-hours"] == pytest.approx(4.68e9 / 4_602 / 0.958 / 3600)
    assert rows["teacher, $"] == 2 * rows["teacher, GPU-hours"]


def test_an_epoch_takes_its_steps_and_more_gpus_gain_less_than_their_number() -> None:
    inputs = Inputs().changed(SMALL)
    rows = {row.name: row.values for row in rows_of_epoch(inputs, [8, 64])}
    few, many = rows["epoch, hours"]
    assert few == pytest.approx(rows["steps"][0] * step_of(inputs, 8).alone / 3600)
    assert few / 8 < many < few
    assert all(
        c > a for c, a in zip(rows["epoch with coupled losses, hours"], (few, many), strict=True)
    )
    assert rows["images a GPU, fewest"] == rows["images a GPU, most"]
    assert rows["images a GPU, most"][0] * 8 >= inputs.images


def test_every_input_is_prepared_once_and_the_last_round_leaves_workers_idle() -> None:
    assert simulate_preparation([25, 10], 10, 2) == Preparation(4, 0, 0, 2, busy=35 / 40)
    assert simulate_preparation([40], 10, 4).busy == 1
    assert simulate_preparation([40], 10, 8).busy == 0.5  # there are four shards


def test_preparing_takes_images_over_rate_and_the_idle_time_of_the_last_round() -> None:
    inputs = Inputs().changed(["images=1e6", "prepare_rate=1000"])
    rows = {row.name: row.values for row in rows_of_preparing(inputs, [16, 64])}
    assert rows["shards a worker, most"] == [7, 2]  # of 100
    assert rows["inputs in no shard or in two"] == [0, 0]
    assert rows["preparing, hours"] == pytest.approx([7 * 10 / 3600, 2 * 10 / 3600])
    assert rows["a killed worker costs, s"] == [10, 10]
    (hours,) = next(r.values for r in rows_of_data(inputs) if r.name == "preparing, core-hours")
    assert hours == pytest.approx(1e6 / 1000 / 3600)


def test_the_slower_of_gpu_and_its_cores_sets_the_time_of_a_step() -> None:
    few, many = (step_of(Inputs().changed([f"cores={n}"]), 64) for n in (2, 64))
    assert few.alone - few.gradients == few.load > few.compute
    assert many.alone - many.gradients == many.compute > many.load


def test_measured_inputs_are_figures_of_the_bench(tmp_path: Path) -> None:
    sizes = ClusterSizes(micro_batch_size=8, num_images=256)
    for figure in unit_figures(tmp_path, sizes):
        if figure.name in ("loader_rate", "prepare_rate"):  # of the machine
            assert figure.value > 0
        else:
            assert figure.value == pytest.approx(getattr(Inputs(), figure.name), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "imges=3"], "did you mean images"),
        (["--set", "images=many"], "images=many"),
        (["--set", "views=-1"], "views=-1"),
        (["--set", "upload=inf"], "upload=inf"),
        (["--gpus", "7"], "--gpus 7"),
        (["--gpus", "0"], "--gpus 0"),
    ],
)
def test_inputs_without_a_plan_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["scaling", *arguments])
    assert result.exit_code == 1 and not result.stdout
    assert words in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_command_compares_gpus_and_marks_chosen_inputs() -> None:
    changes: list[Any] = [word for change in SMALL for word in ("--set", change)]
    result = CliRunner().invoke(app, ["scaling", "--gpus", "8", "--gpus", "16", *changes])
    assert result.exit_code == 0
    assert "|  | 8 | 16 | basis |" in result.stdout
    assert re.search(r"\| `images` \| images \| 1,000,000 \| chosen \|", result.stdout)
