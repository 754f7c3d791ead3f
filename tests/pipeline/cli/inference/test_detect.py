"""`kdeov detect`: objects of any classes with boxes, in three forms and as drawings."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageDraw

from kdeov import Model
from kdeov.runtime.detections import Selection
from tests.helpers import ROOT

CLASSES = ["a cat", "a dog", "a red ball"]
FEW = ("--min-score", 0.5, "--top", 5)

Command = Callable[..., Result]


@pytest.fixture
def photos(here: Path) -> Path:
    """Three images that the head of the test finds something in."""
    generator = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = coarse.resize((120, 80), Image.Resampling.BICUBIC)
        ImageDraw.Draw(image).ellipse((10, 10, 60, 60), fill="red")
        image.save(here / "photos" / f"{number}.png")
    return here / "photos"


def answers(output: str) -> dict[str, Any]:
    """Objects by image, of `--json`."""
    return {row["image"]: row for row in map(json.loads, output.splitlines())}


def test_the_objects_are_those_of_the_model_best_first(
    kdeov: Command, here: Path, photos: Path
) -> None:
    result = kdeov("detect", "photos", "--classes", ", ".join(CLASSES), "--json", *FEW)
    assert (result.exit_code, result.stderr) == (0, "")
    found = answers(result.stdout)
    assert list(found) == [f"photos/{number}.png" for number in range(3)]
    selection = Selection(min_score=0.5, max_detections=5)
    wanted = Model.open(here / "out" / "export").detect(list(found), CLASSES, selection=selection)
    assert sum(len(one.scores) for one in wanted) > 5
    for row, one in zip(found.values(), wanted, strict=True):
        assert row["size"] == [120, 80]
        assert [x["label"] for x in row["objects"]] == one.labels
        assert [x["score"] for x in row["objects"]] == pytest.approx(one.scores, abs=1e-5)
        boxes = np.array([x["box"] for x in row["objects"]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, one.boxes, atol=0.01)


def test_text_is_a_line_an_image_and_csv_a_row_an_object(kdeov: Command, photos: Path) -> None:
    arguments = ("detect", "photos", "--classes", "a cat, a dog", "--min-score", 0.5, "--top", 1)
    lines = kdeov(*arguments).stdout.splitlines()
    rows = list(csv.DictReader(io.StringIO(kdeov(*arguments, "--csv").stdout)))
    assert len(lines) == len(rows) == 3
    for line, row in zip(lines, rows, strict=True):
        box = " ".join(f"{float(row[side]):.0f}" for side in ("left", "top", "right", "bottom"))
        assert line == f"{row['image']}: {row['label']} {float(row['score']):.2f} at {box}"
    nothing = kdeov("detect", "photos/0.png", "--classes", "a cat", "--min-score", 1)
    assert nothing.exit_code == 0 and nothing.stdout == "photos/0.png: none of these classes\n"


def test_the_second_call_with_the_same_classes_opens_no_text_tower(
    kdeov: Command, here: Path, photos: Path, exported: Path
) -> None:
    first = kdeov("detect", "photos", "--classes", "a cat, a dog")
    assert first.exit_code == 0
    (here / "out" / "export").unlink()
    shutil.copytree(exported, here / "out" / "export")
    (here / "out" / "export" / "text.onnx").unlink()
    assert kdeov("detect", "photos", "--classes", "a cat, a dog").stdout == first.stdout


def test_images_that_cannot_be_read_are_named_and_the_others_answered(
    kdeov: Command, here: Path, photos: Path
) -> None:
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:60])
    (here / "text.jpg").write_text("no image", encoding="utf-8")
    result = kdeov("detect", "text.jpg", "absent.png", "photos", "--classes", "a, b")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "photos/0.png", "photos/2.png",
    ]  # fmt: skip
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("text.jpg", "absent.png", "photos/1.png"), strict=True):
        assert line.startswith("kdeov detect: ") and name in line


def test_drawings_show_boxes_in_a_folder_that_is_made(
    kdeov: Command, here: Path, photos: Path
) -> None:
    arguments = ("detect", "photos", "--classes", "a cat, a dog", *FEW, "--draw", "drawn/here")
    result = kdeov(*arguments)
    assert result.exit_code == 0 and result.stderr == "3 drawings: drawn/here\n"
    names = [f"{number}.png.boxes.png" for number in range(3)]
    assert sorted(path.name for path in (here / "drawn" / "here").iterdir()) == names
    drawn = Image.open(here / "drawn" / "here" / names[0])
    assert drawn.size == (600, 400)  # enlarged, so that names are legible
    plain = Image.open(photos / "0.png").resize(drawn.size, Image.Resampling.BICUBIC)
    changed = (np.asarray(drawn) != np.asarray(plain)).any(axis=2).mean()
    assert 0.02 < changed < 0.5
    # drawings are no input of a second call, which replaces them
    assert kdeov(*arguments, "drawn/here").stderr.splitlines()[0].endswith("holds no image file")


def test_images_of_one_name_have_a_drawing_each(kdeov: Command, here: Path, photos: Path) -> None:
    (here / "more").mkdir()
    shutil.copyfile(photos / "0.png", here / "more" / "0.png")
    result = kdeov("detect", "photos/0.png", "more/0.png", "--classes", "a", "--draw", "drawn")
    assert result.exit_code == 0
    assert sorted(path.name for path in (here / "drawn").iterdir()) == [
        "0.png.2.boxes.png", "0.png.boxes.png",
    ]  # fmt: skip


def test_a_second_run_replaces_its_own_drawing_and_no_file_of_others(
    kdeov: Command, here: Path, photos: Path
) -> None:
    arguments = ("detect", "photos/0.png", "--classes", "a cat")
    assert [kdeov(*arguments, "--draw", "a.png").exit_code for _ in range(2)] == [0, 0]
    before = (photos / "1.png").read_bytes()
    result = kdeov(*arguments, "--draw", "photos/1.png")
    assert result.exit_code == 1 and "photos/1.png" in result.stderr
    assert (photos / "1.png").read_bytes() == before
    (here / "drawn").mkdir()
    (here / "drawn" / "0.png.boxes.png").write_text("mine", encoding="utf-8")
    result = kdeov(*arguments, "--draw", "drawn")
    assert result.exit_code == 1 and "0.png.boxes.png" in result.stderr
    assert (here / "drawn" / "0.png.boxes.png").read_text(encoding="utf-8") == "mine"
    several = kdeov("detect", "photos", "--classes", "a cat", "--draw", "a.png")
    assert several.exit_code == 1 and "a folder" in several.stderr


@pytest.mark.parametrize("name", ["<b>&amp;</b>", "[bold]x[/bold]", "{0} %s", "猫", "كلب"])
def test_names_of_any_script_and_markup_are_text(
    kdeov: Command, here: Path, photos: Path, name: str
) -> None:
    (here / "names.txt").write_text(f"{name}\n", encoding="utf-8")
    arguments = ("detect", "photos/0.png", "--classes-file", "names.txt", "--min-score", 0)
    result = kdeov(*arguments, "--top", 1, "--json", "--draw", "a.png")
    assert result.exit_code == 0
    (row,) = answers(result.stdout).values()
    assert [x["label"] for x in row["objects"]] == [name]
    plain = kdeov(*arguments, "--top", 1).stdout
    assert plain.startswith(f"photos/0.png: {' '.join(name.split())} 0.")
    assert Image.open(here / "a.png").size == (600, 400)


def test_thousands_of_classes_come_from_a_file(kdeov: Command, here: Path, photos: Path) -> None:
    names = "\n".join(f"thing number {number}" for number in range(2000))
    (here / "names.txt").write_text(names, encoding="utf-8")
    result = kdeov("detect", "photos", "--classes-file", "names.txt", "--top", 7, "--json")
    assert result.exit_code == 0
    assert [len(row["objects"]) for row in answers(result.stdout).values()] == [7, 7, 7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--classes", "--classes-file"]),
        (["--classes", "a", "--classes-file", "x.txt"], ["--classes", "--classes-file"]),
        (["--classes", " , ,"], ["--classes", "no class"]),
        (["--classes", "a, b, a"], ["'a'", "twice"]),
        (["--classes-file", "absent.txt"], ["--classes-file absent.txt"]),
        (["--classes", "a", "--templates", "a photo"], ["'a photo'"]),
        (["--classes", "a", "--json", "--csv"], ["--json", "--csv"]),
        (["--classes", "a", "--model", "photos"], ["photos", "card.json"]),
        (["--classes", "a", "--draw", "photos/0.png/x"], ["photos/0.png/x"]),
        (["--classes", "a", "--draw", "names.jpg"], ["names.jpg", ".png"]),
    ],
)
def test_a_wrong_option_is_named_in_one_line_and_nothing_is_written(
    kdeov: Command, here: Path, options: list[str], words: list[str]
) -> None:
    (here / "names.jpg").write_text("mine", encoding="utf-8")
    before = sorted(here.rglob("*"))
    result = kdeov("detect", "photos", *options)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdeov detect: ") and all(word in line for word in words), line
    assert sorted(here.rglob("*")) == before


def test_an_export_without_boxes_names_the_stage_and_the_command(
    kdeov: Command, here: Path, exported: Path, tmp_path: Path
) -> None:
    from tests.helpers.exported import small_model
    from tests.kdeov.runtime.copies import write_copy

    write_copy(exported, tmp_path / "without", {"detect.onnx": None}, detection=None)
    small_model().save(tmp_path / "student")
    for folder, words in (
        ("without", ["detect.onnx", "train_boxes", "dvc repro export", "kdeov export"]),
        ("student", ["student folder", "kdeov export", "--boxes"]),
    ):
        result = kdeov("detect", "photos", "--classes", "a", "--model", tmp_path / folder)
        assert result.exit_code == 1 and result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert all(word in line for word in words), line


@pytest.mark.slow
def test_an_answer_with_cached_classes_costs_about_a_second_at_most(
    here: Path, photos: Path
) -> None:
    code = "import sys; sys.argv = sys.argv[1:]; from pipeline.cli.main import app; app()"
    command = [sys.executable, "-c", code, "kdeov", "detect", "photos/0.png", "--classes", "a, b"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    seconds = []
    for _ in range(4):  # the first call embeds the classes
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env=variables)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # processor time: 0.7 on a quiet machine; other processes share caches and cores
    assert min(seconds) < 1.5


@pytest.mark.slow
def test_a_saved_student_and_its_head_become_an_export_that_detects(
    kdeov: Command, here: Path, photos: Path, tmp_path: Path
) -> None:
    from tests.helpers.exported import small_detector, small_model

    model = small_model()
    model.save(tmp_path / "student")
    small_detector(model).save(tmp_path / "boxes")
    result = kdeov("export", tmp_path / "student", "--boxes", tmp_path / "boxes", "-o", "small")
    assert result.exit_code == 0 and "kdeov detect" in result.stdout
    arguments = ("detect", "photos", "--classes", "a cat, a dog", "--json", *FEW)
    assert kdeov(*arguments, "--model", "small").stdout == kdeov(*arguments).stdout
    absent = kdeov("export", tmp_path / "student", "--boxes", "absent", "-o", "other")
    assert absent.exit_code == 1 and "absent" in absent.stderr and not Path("other").exists()
