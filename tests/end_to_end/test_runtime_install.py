"""`pip install kdeov` alone runs every command on an export, without PyTorch."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.helpers.exported import write_export
from tests.helpers.runtime_install import RuntimeInstall, runtime_install

pytestmark = pytest.mark.slow  # builds and installs the package

MAX_BYTES = 300_000_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> RuntimeInstall:
    return runtime_install(tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`out/export`, three images and one file that is none."""
    root = tmp_path_factory.mktemp("use")
    write_export(root / "out" / "export", boxes=True)
    for number, color in enumerate(("red", "green", "blue")):
        image = Image.new("RGB", (80, 60), "white")
        ImageDraw.Draw(image).ellipse((5, 5, 35, 35), fill=color)
        (root / "photos").mkdir(exist_ok=True)
        image.save(root / "photos" / f"{number}.png")
    (root / "broken.jpg").write_bytes(b"no image")
    return root


def test_the_install_is_small_and_without_pytorch(installed: RuntimeInstall) -> None:
    assert installed.bytes <= MAX_BYTES
    assert not {"torch", "ray", "mlflow", "dvc", "ultralytics", "pyarrow"} & installed.distributions


def test_classify_answers(installed: RuntimeInstall, folder: Path) -> None:
    result = installed.run("classify", "photos", "--labels", "red, green", "--json", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        assert {label["label"] for label in row["labels"]} == {"red", "green"}
        assert sum(label["probability"] for label in row["labels"]) == pytest.approx(1, abs=1e-4)


def test_classify_prints_a_table(installed: RuntimeInstall, folder: Path) -> None:
    labels = folder / "labels.txt"
    labels.write_text("red, or rather pink\n緑\n\n\tblue {}\n", encoding="utf-8")
    result = installed.run("classify", "-", "--labels-file", labels, "--csv", "--top", 2,
                           cwd=folder, stdin="photos/0.png\nphotos/2.png\n")  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 4
    assert {row["label"] for row in rows} <= {"red, or rather pink", "緑", "blue {}"}


def test_locate_draws_and_says_where(installed: RuntimeInstall, folder: Path) -> None:
    result = installed.run("locate", "photos/0.png", "--text", "a red ball", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("a red ball: ") and "80 x 60 pixels" in result.stdout
    assert Image.open(folder / "0.png.heatmap.png").size == (80, 60)


def test_detect_draws_and_prints_boxes(installed: RuntimeInstall, folder: Path) -> None:
    result = installed.run("detect", "photos", "--classes", "a ball, a cube", "--min-score", "0",
                           "--json", "--draw", "drawn", cwd=folder)  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "3 drawings: drawn\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(row["size"] == [80, 60] and row["objects"] for row in rows)
    assert len(list((folder / "drawn").iterdir())) == 3


def test_embed_writes_rows(installed: RuntimeInstall, folder: Path) -> None:
    result = installed.run("embed", "photos", "-o", "rows.npy", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    rows = np.load(folder / "rows.npy")
    assert rows.shape == (3, 32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-4)


def test_images_are_indexed_and_found(installed: RuntimeInstall, folder: Path) -> None:
    made = installed.run("index", "photos", cwd=folder)
    assert (made.returncode, made.stderr) == (0, "") and "3 images (3 new)" in made.stdout
    found = installed.run("search", "a red ball", "-k", 2, "--json", cwd=folder)
    assert (found.returncode, found.stderr) == (0, "")
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert all(0 < hit["probability"] <= 1 for hit in hits)


def test_no_command_imports_what_is_not_there(installed: RuntimeInstall, folder: Path) -> None:
    for arguments in (["--help"], ["classify", "--help"], ["embed", "--help"], ["recipes"]):
        assert installed.run(*arguments, cwd=folder).returncode in (0, 1), arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "photos", "-o", "rows.parquet"], ["pyarrow", "kdeov[parquet]"]),
        (["classify", "photos", "--labels", "a", "--model", "student"], ["kdeov[train]"]),
        (["classify", "photos", "--labels", "a", "--model", "models:/m/1"], ["kdeov[train]"]),
        (["export", "student", "-o", "x"], ["kdeov[train]"]),
        (["summary"], ["kdeov[train]"]),
        (["params"], ["kdeov[train]"]),
        (["doctor"], ["kdeov[train]"]),
        (["bench", "data"], ["kdeov[train]"]),
        (["cluster", "up"], ["kdeov[train]"]),
        (["serve", "--port", "0"], ["kdeov[serve]"]),
        (["promote"], ["kdeov[train]"]),
    ],
)
def test_a_command_that_needs_more_names_the_extra_in_one_line(
    installed: RuntimeInstall, folder: Path, arguments: list[str], words: list[str]
) -> None:
    (folder / "student").mkdir(exist_ok=True)
    (folder / "student" / "student.safetensors").touch()
    result = installed.run(*arguments, cwd=folder)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"kdeov {arguments[0]}")
    assert all(word in line for word in words), line


def test_an_image_that_cannot_be_read_leaves_the_others_answered(
    installed: RuntimeInstall, folder: Path
) -> None:
    result = installed.run("classify", "broken.jpg", "photos", "--labels", "red", cwd=folder)
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 3
    (line,) = result.stderr.splitlines()
    assert "broken.jpg" in line
