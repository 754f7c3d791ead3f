"""`kdeov export`: a saved student becomes a folder that the other commands take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.helpers.exported import small_model

Command = Callable[..., Result]


@pytest.mark.slow
def test_an_exported_student_answers_without_its_folder(kdeov: Command, tmp_path: Path) -> None:
    small_model().save(tmp_path / "student")
    result = kdeov("export", tmp_path / "student", "-o", "small")
    assert result.exit_code == 0 and "--model small" in result.stdout
    card = json.loads(Path("small/card.json").read_text(encoding="utf-8"))
    assert card["int8"] == {} and card["fingerprint"] is None
    answered = kdeov("classify", "photos", "--labels", "a, b", "--model", "small")
    assert answered.exit_code == 0 and len(answered.stdout.splitlines()) == 3
    refused = kdeov("classify", "photos", "--labels", "a, b", "--model", "small", "--int8")
    assert refused.exit_code == 1 and "image.int8.onnx" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], ["absent"]),
        (["photos"], ["photos"]),
        (["STUDENT", "--images", "photos"], ["3 images", "8"]),
        (["STUDENT", "--images", "absent.png"], ["absent.png"]),
        (["STUDENT", "--to", "abacus"], ["abacus", "openvino"]),
    ],
)
def test_a_wrong_argument_is_named_in_one_line_and_nothing_is_written(
    kdeov: Command, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    small_model().save(tmp_path / "student")
    given = [str(tmp_path / "student") if word == "STUDENT" else word for word in arguments]
    result = kdeov("export", *given, "-o", "small")
    assert result.exit_code == 1
    assert all(word in result.stderr.splitlines()[-1] for word in words), result.stderr
    assert not Path("small").exists()
