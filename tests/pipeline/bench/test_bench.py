"""The benches measure real stages, and compare every figure with its bar."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pipeline.bench.data import suite as data
from pipeline.bench.figures import Figure, figure_table, print_figures
from pipeline.bench.fixtures import IMAGE, photographs
from pipeline.bench.sizes import BenchSizes
from pipeline.cli.main import app
from tests.helpers import ROOT
from tests.helpers.waiting import wait_for

SMALL = BenchSizes(
    teacher=(64, 64, 1, 64, 32, 77, 49408, 64, 1, 1),
    prepare_images=8,
    prepare_shards=0,
    embed_views=8,
    embed_batch=4,
    read_samples=20,
    render_images=4,
    shard_samples=40,
    step_batch=4,
    steps=2,
    epoch_images=8,
    epochs=1,
    plan_samples=25_000,
    repeats=1,
)
FLOORS = {
    "prepare_speed": 0.80,
    "embedding_share": 0.90,
    "embedding_share_4_views": 0.93,
    "teacher_read_samples_per_s": 4000,
    "teacher_read_against_pth_gz": 2,
    "rendering_speedup": 1.7,
    "rendering_against_decoding": 0.85,
    "step_speedup_images": 8,
    "step_speedup_captions": 12,
}
CEILINGS = {
    "loss_difference": 1e-3,
    "data_wait": 0.02,
    "bytes_per_embedding": 1300,
    "stream_start_ms": 5,
    "plan_seconds": 5,
    "plan_megabytes": 500,
}
GOOD = Figure("speed", 5301.4, 4000, "samples/s")
BAD = Figure("difference", 0.0123, 1e-3, "of two losses", at_most=True)
NO_BAR = Figure("start", 12.3, None, "seconds, without a bar")


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return {figure.name: figure for figure in data.data_figures(SMALL)}


def test_every_figure_has_its_bar(figures: dict[str, Figure]) -> None:
    assert {f.name: f.bar for f in figures.values() if not f.at_most} == FLOORS
    assert {f.name: f.bar for f in figures.values() if f.at_most} == CEILINGS
    assert all(math.isfinite(f.value) for f in figures.values())
    assert all(f.value > 0 for f in figures.values() if f.name != "loss_difference")


def test_cache_and_live_teacher_give_the_same_losses(figures: dict[str, Figure]) -> None:
    assert 0 <= figures["loss_difference"].value < 1e-3


def test_figures_other_than_times_are_right_at_any_size(figures: dict[str, Figure]) -> None:
    wait = figures["data_wait"].value
    assert 0 < wait < 1
    # 16 embeddings of 64 half floats, 11 views of 9 integers, 8 bytes of checksums, three headers
    stored = 2048 + 512 + 512 + 3 * 512
    assert stored / 16 <= figures["bytes_per_embedding"].value <= (stored + 1024) / 16


def test_photographs_have_the_size_of_photographs_and_are_reproducible() -> None:
    one, two = photographs(distinct=2), photographs(distinct=2)
    first = [next(one) for _ in range(3)]
    assert first == [next(two) for _ in range(3)] and first[0] == first[2] != first[1]
    assert Image.open(io.BytesIO(first[0])).size == IMAGE
    assert 80_000 < len(first[0]) < 100_000


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0, math.nan])
def test_a_bar_is_a_floor_or_a_ceiling_and_nan_clears_neither(value: float) -> None:
    assert Figure("f", value, 1.0, "").ok == (value >= 1)
    assert Figure("f", value, 1.0, "", at_most=True).ok == (value <= 1)


def test_the_table_fits_a_terminal_and_marks_missed_bars() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figure_table("Title", [GOOD, BAD, NO_BAR]))
    text = console.export_text()
    assert re.search(r"speed +5,301 +≥ 4,000 +ok +samples/s", text)
    assert re.search(r"difference +0\.0123 +≤ 0\.001 +missed +of two losses", text)
    assert re.search(r"start +12\.3 +seconds, without a bar", text)
    assert max(map(len, text.splitlines())) <= 80


def test_the_json_has_value_bar_and_verdict_of_each_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert print_figures("Title", [GOOD], path)
    assert not print_figures("Title", [GOOD, BAD, NO_BAR], path)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "speed": {"value": 5301.4, "bar": 4000, "ok": True},
        "difference": {"value": 0.0123, "bar": 0.001, "ok": False},
        "start": {"value": 12.3, "bar": None, "ok": True},
    }


def test_the_command_prints_all_figures_writes_json_and_fails_on_a_missed_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SIZES", SMALL)
    path = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["bench", "data", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert set(rows) == FLOORS.keys() | CEILINGS.keys()
    assert all(name in result.output for name in rows)
    missed = [name for name, row in rows.items() if not row["ok"]]
    assert missed and result.exit_code == 1  # a teacher this small is no slower than decoding
    assert "missed" in result.output and all(name in result.output for name in missed)


def test_an_interrupted_bench_leaves_no_files(tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli.main import app; app()", "bench", "data"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: [*tmp_path.glob("kdeov-bench-*/teacher")] or bench.poll() is not None)
        bench.send_signal(signal.SIGINT)
        assert bench.wait(timeout=60) not in (0, None)
    finally:
        bench.kill()
    assert [*tmp_path.glob("kdeov-bench-*")] == []
