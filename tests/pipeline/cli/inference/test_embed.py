"""`kdeov embed`: a table that is whole, and a command that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from PIL import Image

from kdeov import Model
from tests.helpers import ROOT
from tests.helpers.waiting import wait_for

MAIN = "from pipeline.cli.main import app; app()"

Command = Callable[..., Result]


def test_the_rows_are_the_models_embeddings_in_order(kdeov: Command, here: Path) -> None:
    names = ["photos/2.png", "photos/0.png", "photos/1.png"]
    for output in ("rows.npy", "rows.parquet"):
        assert kdeov("embed", *names, "-o", output).exit_code == 0
    wanted = Model.open(here / "out" / "export").embed_image(names)
    assert np.load("rows.npy") == pytest.approx(wanted, abs=1e-5)
    table = pq.read_table("rows.parquet")
    assert table.column("image").to_pylist() == names
    assert np.stack(table.column("embedding").to_numpy()) == pytest.approx(wanted, abs=1e-5)


def test_a_second_run_embeds_new_and_changed_images_alone(kdeov: Command, here: Path) -> None:
    assert "3 embeddings" in kdeov("embed", "photos", "-o", "rows.npy").stdout
    before = (here / "rows.npy").read_bytes()
    again = kdeov("embed", "photos", "-o", "rows.npy")
    assert "3 of them as before" in again.stdout and (here / "rows.npy").read_bytes() == before
    Image.new("RGB", (30, 30), "purple").save(here / "photos" / "1.png")
    assert "2 of them as before" in kdeov("embed", "photos", "-o", "rows.npy").stdout
    assert (here / "rows.npy").read_bytes() != before


def test_a_name_that_is_no_unicode_has_its_row(kdeov: Command, here: Path) -> None:
    odd = os.fsencode(here / "photos") + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        Image.new("RGB", (30, 30), "purple").save(file, "PNG")
    for output in ("rows.npy", "rows.parquet"):
        result = kdeov("embed", "photos", "-o", output)
        assert result.exit_code == 0 and "4 embeddings" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["photos", "-o", "rows.txt"], 1, ["rows.txt", ".npy"]),
        (["empty", "-o", "rows.npy"], 1, ["rows.npy", "not written"]),
        (["photos", "absent.png", "-o", "rows.npy"], 2, ["absent.png"]),
        (["photos", "-o", "photos/0.png/rows.npy"], 1, ["photos/0.png/rows.npy"]),
    ],
)
def test_what_goes_wrong_is_named(
    kdeov: Command, here: Path, arguments: list[str], status: int, words: list[str]
) -> None:
    (here / "empty").mkdir()
    result = kdeov("embed", *arguments)
    assert result.exit_code == status
    last = result.stderr.splitlines()[-1]
    assert last.startswith("kdeov embed: ") and all(word in last for word in words), last
    assert (here / "rows.npy").exists() == (status == 2)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_from_its_parts(here: Path, end: signal.Signals) -> None:
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    for number in range(1500):
        image.save(here / "photos" / f"n{number:04d}.bmp")
    command = [sys.executable, "-c", MAIN, "embed", "photos", "-o", "rows.npy"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        parts = here / "rows.npy.parts"
        wait_for(lambda: any(parts.glob("*.json")), seconds=120)
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    assert not (here / "rows.npy").exists()
    result = subprocess.run(
        command,
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    kept = int(result.stdout.split("numbers, ")[1].split()[0])
    assert 512 <= kept < 1503
    assert np.load(here / "rows.npy").shape[0] == 1503
    assert not parts.exists()
