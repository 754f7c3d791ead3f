"""Class names for prompts: given in params or in a file, and refused in one line if wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.params import load_params
from pipeline.evaluation.shared.class_names import prompt_classes, require_same_names

CLASSES = ["airplane", "automobile", "ship"]
RENAMING = {"automobile": "car (automobile)", "ship": None}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_without_class_names_the_data_sets_own_are_used() -> None:
    classes = prompt_classes(CLASSES, None)
    assert (classes.names, classes.labels, classes.digest) == (CLASSES, [0, 1, 2], None)


def test_classes_are_renamed_left_out_and_otherwise_kept(tmp_path: Path) -> None:
    inline = prompt_classes(CLASSES, RENAMING)
    assert (inline.names, inline.labels) == (["airplane", "car (automobile)"], [0, 1])
    path = written(tmp_path / "names.json", json.dumps(RENAMING, indent=3))
    assert prompt_classes(CLASSES, path) == inline
    assert prompt_classes(CLASSES, {"ship": None}).digest != inline.digest


def test_a_name_of_a_class_that_is_left_out_may_be_given_to_another() -> None:
    classes = prompt_classes(CLASSES, {"ship": "automobile", "automobile": None})
    assert (classes.names, classes.labels) == (["airplane", "automobile"], [0, 2])
    assert prompt_classes(CLASSES, {"ship": " boat "}).names[2] == "boat"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"automobil": "car"}', ["'automobil'", "airplane, automobile, ship"]),
        ('{"ship": ""}', ["'ship'", "null"]),
        ('{"ship": "  "}', ["'ship'", "null"]),
        ('{"ship": "airplane"}', ["'airplane' and 'ship'", "name 'airplane'"]),
        ('{"airplane": "a", "ship": " a "}', ["'airplane' and 'ship'", "name 'a'"]),
        ('{"airplane": null, "automobile": null, "ship": null}', ["every class"]),
        ('{"ship": 3}', ["mapping"]),
        ('["ship"]', ["mapping"]),
        ("{ship}", ["JSON"]),
    ],
)
def test_a_file_that_is_wrong_is_named(
    tmp_path: Path, complains: Any, text: str, words: list[str]
) -> None:
    path = written(tmp_path / "names.json", text)
    with complains(path, *words):
        prompt_classes(CLASSES, path)


def test_two_classes_of_one_name_keep_it() -> None:
    classes = prompt_classes(["crane", "ship", "crane"], {"ship": "boat"})
    assert classes.names == ["crane", "boat", "crane"]


def test_a_missing_file_is_named(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "none.json", "zero_shot.class_names"):
        prompt_classes(CLASSES, tmp_path / "none.json")


def test_a_mapping_of_params_that_is_wrong_is_named(complains: Any) -> None:
    with complains("zero_shot.class_names", "'boat'"):
        prompt_classes(CLASSES, {"boat": "ship"})


def test_results_of_other_names_are_refused(tmp_path: Path, complains: Any) -> None:
    path = written(tmp_path / "names.json", json.dumps(RENAMING))
    recorded = prompt_classes(CLASSES, path).digest
    require_same_names(path, recorded)
    require_same_names(dict(RENAMING), recorded)
    require_same_names(None, None)
    written(path, json.dumps({**RENAMING, "airplane": "plane"}))
    for names, known in ((path, recorded), (None, recorded), (path, None)):
        with complains("metrics/zero_shot.json", "dvc repro -f zero_shot"):
            require_same_names(names, known)


def test_params_take_a_mapping_or_a_path_from_their_own_folder(
    root: Path, tmp_path: Path, complains: Any
) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))

    def load(names: Any) -> Any:
        values["zero_shot"]["class_names"] = names
        path = written(tmp_path / "params.yaml", yaml.safe_dump(values))
        return load_params(path).zero_shot.class_names

    assert load(None) is None
    assert load(RENAMING) == RENAMING
    assert load("names.json") == tmp_path / "names.json"
    with complains("zero_shot.class_names", "not 3"):
        load(3)
    with complains("zero_shot.class_names", "not 5"):
        load({"ship": 5})
    with complains("zero_shot.class_names", "'ship'"):
        load({"ship": "\u200b"})


def test_two_spellings_of_one_name_are_one_name(tmp_path: Path, complains: Any) -> None:
    names = {"airplane": "flying  cafe\u0301", "ship": "flying caf\u00e9"}
    with complains("zero_shot.class_names", "'airplane'", "'ship'"):
        prompt_classes(CLASSES, names)
    path = written(tmp_path / "names.json", "\ufeff" + json.dumps({"ship": "a  boat "}))
    assert "a boat" in prompt_classes(CLASSES, path).names
