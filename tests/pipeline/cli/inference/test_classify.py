"""`kdeov classify`: what it answers, in three forms, and its errors."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from kdeov import Model
from tests.helpers import ROOT

LABELS = ["a cat", "a dog", "a red ball"]

Command = Callable[..., Result]


def answers(output: str) -> dict[str, list[tuple[str, float]]]:
    """Labels and probabilities by image, of `--json`."""
    rows = [json.loads(line) for line in output.splitlines()]
    return {r["image"]: [(x["label"], x["probability"]) for x in r["labels"]] for r in rows}


def test_the_answers_are_those_of_the_model_best_first(kdeov: Command, here: Path) -> None:
    result = kdeov("classify", "photos", "--labels", ", ".join(LABELS), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = answers(result.stdout)
    assert list(found) == [f"photos/{number}.png" for number in range(3)]
    wanted = Model.open(here / "out" / "export").classify(list(found), LABELS)
    for ranking, row in zip(found.values(), wanted, strict=True):
        assert [label for label, _ in ranking] == [LABELS[i] for i in np.argsort(-row)]
        assert [value for _, value in ranking] == pytest.approx(sorted(row)[::-1], abs=1e-4)


def test_text_is_a_line_an_image_and_csv_a_row_a_label(kdeov: Command) -> None:
    arguments = ("classify", "photos", "--labels", "a cat, a dog", "--top", 1)
    lines = kdeov(*arguments).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"photos/{n}.png" for n in range(3)]
    rows = list(csv.DictReader(io.StringIO(kdeov(*arguments, "--csv").stdout)))
    assert [(row["image"], row["rank"]) for row in rows] == [
        (f"photos/{number}.png", "1") for number in range(3)
    ]
    for line, row in zip(lines, rows, strict=True):
        assert line == f"{row['image']}: {row['label']} {float(row['probability']):.3f}"


def test_the_second_call_with_the_same_labels_opens_no_text_tower(
    kdeov: Command, here: Path, exported: Path
) -> None:
    first = kdeov("classify", "photos", "--labels", "a cat, a dog")
    assert first.exit_code == 0
    (here / "out" / "export").unlink()
    shutil.copytree(exported, here / "out" / "export")
    (here / "out" / "export" / "text.onnx").unlink()
    assert kdeov("classify", "photos", "--labels", "a cat, a dog").stdout == first.stdout
    other = kdeov("classify", "photos", "--labels", "a cat, a bird")
    assert other.exit_code == 1 and "text.onnx" in other.stderr


def test_a_damaged_cache_is_made_again(kdeov: Command, tmp_path: Path) -> None:
    first = kdeov("classify", "photos", "--labels", "a cat, a dog")
    (cached,) = (tmp_path / "cache").rglob("*.npy")
    whole = cached.read_bytes()
    for damaged in (b"", whole[:-9], whole[:-4] + b"\xff\xff\xff\x7f", b"no array" * 9):
        cached.write_bytes(damaged)
        assert kdeov("classify", "photos", "--labels", "a cat, a dog").stdout == first.stdout
        assert cached.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_and_no_answer(
    kdeov: Command, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file is no folder", encoding="utf-8")
    result = kdeov("classify", "photos", "--labels", "a cat, a dog")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3


def test_other_templates_give_other_answers(kdeov: Command) -> None:
    arguments = ("classify", "photos", "--labels", "cat, dog", "--json")
    plain = answers(kdeov(*arguments).stdout)
    assert plain == answers(kdeov(*arguments, "--templates", "simple").stdout)
    assert plain == answers(kdeov(*arguments, "--templates", "a photo of a {}.").stdout)
    ensemble = ("--templates", "a drawing of a {}", "--templates", "one {}")
    assert plain != answers(kdeov(*arguments, *ensemble).stdout)


@pytest.mark.parametrize(
    "labels",
    ["猫\nكلب\nsobačka", "{braces}\n{}\n{0}", "a, b\n'quoted'\n\"double\"", "only one"],
    ids=["languages", "braces", "quotes and commas", "one"],
)
def test_labels_of_any_form_come_from_a_file(kdeov: Command, here: Path, labels: str) -> None:
    (here / "labels.txt").write_text(f"\ufeff{labels}\r\n\n", encoding="utf-8")
    result = kdeov("classify", "photos/0.png", "--labels-file", "labels.txt", "--json")
    assert result.exit_code == 0
    (ranking,) = answers(result.stdout).values()
    assert {label for label, _ in ranking} == set(labels.split("\n"))
    assert sum(value for _, value in ranking) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_ten_thousand_labels_are_answered(kdeov: Command, here: Path) -> None:
    names = "\n".join(f"thing number {number}" for number in range(10_000))
    (here / "labels.txt").write_text(names, encoding="utf-8")
    result = kdeov("classify", "photos", "--labels-file", "labels.txt", "--top", 5)
    assert result.exit_code == 0
    assert [line.count("thing number") for line in result.stdout.splitlines()] == [5, 5, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--labels", "--labels-file"]),
        (["--labels", "a", "--labels-file", "x.txt"], ["--labels", "--labels-file"]),
        (["--labels", " , ,"], ["--labels", "no label"]),
        (["--labels", "a, b, a"], ["'a'", "twice"]),
        (["--labels", "a red  star,a red star"], ["'a red star'", "twice"]),
        (["--labels", "caf\u00e9, cafe\u0301"], ["twice"]),
        (["--labels", "cat\0dog"], ["cat", "no text"]),
        (["--labels-file", "absent.txt"], ["absent.txt"]),
        (["--labels-file", "photos/0.png"], ["photos/0.png", "UTF-8"]),
        (["--labels", "a", "--templates", "a photo"], ["'a photo'"]),
        (["--labels", "a", "--templates", "{} and {}"], ["{}"]),
        (["--labels", "a", "--json", "--csv"], ["--json", "--csv"]),
        (["--labels", "a", "--model", "photos"], ["photos", "card.json"]),
        (["--labels", "a", "--model", "absent"], ["absent"]),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    kdeov: Command, options: list[str], words: list[str]
) -> None:
    result = kdeov("classify", "photos", *options)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdeov classify: ")
    assert all(word in line for word in words), line


def test_an_output_that_cannot_be_written_is_one_line(here: Path) -> None:
    command = [sys.executable, "-c", "from pipeline.cli.main import app; app()"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [*command, "classify", "photos", "--labels", "a, b"], cwd=here, stdout=full,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "standard output" in line


def test_json_is_json_in_every_encoding(here: Path) -> None:
    command = [sys.executable, "-c", "from pipeline.cli.main import app; app()"]
    result = subprocess.run(
        [*command, "classify", "photos", "--labels", "café, 🐶", "--json"], cwd=here,
        capture_output=True, text=True, encoding="latin-1", timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    (ranking, *_) = answers(result.stdout).values()
    assert {label for label, _ in ranking} == {"café", "🐶"}


def test_images_that_cannot_be_read_are_named_and_the_others_answered(
    kdeov: Command, here: Path
) -> None:
    (here / "photos" / "1.png").write_bytes((here / "photos" / "1.png").read_bytes()[:60])
    (here / "text.jpg").write_text("no image", encoding="utf-8")
    result = kdeov("classify", "text.jpg", "absent.png", "photos", "--labels", "a, b")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "photos/0.png", "photos/2.png",
    ]  # fmt: skip
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("text.jpg", "absent.png", "photos/1.png"), strict=True):
        assert line.startswith("kdeov classify: ") and name in line


def test_without_an_export_the_command_that_makes_one_is_named(kdeov: Command, here: Path) -> None:
    (here / "out" / "export").unlink()
    result = kdeov("classify", "photos", "--labels", "a")
    assert result.exit_code == 1 and "dvc repro" in result.stderr
    (here / "dvc.yaml").touch()
    assert "dvc repro export" in kdeov("classify", "photos", "--labels", "a").stderr


@pytest.mark.parametrize("name", ["image.onnx", "card.json", "golden.npz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_export_is_named_in_one_line(
    kdeov: Command, here: Path, exported: Path, name: str, damage: str
) -> None:
    (here / "out" / "export").unlink()
    shutil.copytree(exported, here / "out" / "export")
    path = here / "out" / "export" / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    else:
        path.unlink()
    result = kdeov("classify", "photos", "--labels", "a")
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "out/export" in line


def test_an_export_of_another_format_names_the_versions(
    kdeov: Command, here: Path, exported: Path
) -> None:
    from kdeov.weights.digests import with_digest

    (here / "out" / "export").unlink()
    shutil.copytree(exported, here / "out" / "export")
    card = here / "out" / "export" / "card.json"
    values = json.loads(card.read_text(encoding="utf-8"))
    del values["digest"]
    card.write_text(json.dumps(with_digest({**values, "format": 99})), encoding="utf-8")
    result = kdeov("classify", "photos", "--labels", "a")
    assert result.exit_code == 1 and "99" in result.stderr


def test_a_student_folder_gives_the_answers_of_its_export(kdeov: Command, tmp_path: Path) -> None:
    from tests.helpers.exported import small_model

    small_model().save(tmp_path / "student")
    arguments = ("classify", "photos", "--labels", "a cat, a dog", "--json")
    wanted = answers(kdeov(*arguments).stdout)
    found = answers(kdeov(*arguments, "--model", tmp_path / "student").stdout)
    assert found.keys() == wanted.keys()
    for image, ranking in found.items():
        assert dict(ranking) == pytest.approx(dict(wanted[image]), abs=1e-3)
    refused = kdeov(*arguments, "--model", tmp_path / "student", "--int8")
    assert refused.exit_code == 1 and "--int8" in refused.stderr
