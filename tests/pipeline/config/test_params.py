"""`params.yaml`: what is wrong in it is named in one line, and its paths mean one thing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AfterValidator

from pipeline.config.params import Params, load_params
from pipeline.config.renamed import RENAMED
from pipeline.config.schema import _without_home
from pipeline.config.source_params import SOURCES
from tests.helpers.params_file import keys_of, load, put, without

PLACES = {"data", "cluster", "tracking"}  # sections that say only where things are and run


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("distil", "distil is not a key; did you mean distill?"),
        ("distill.epoch", "distill.epoch is not a key of distill; did you mean epochs?"),
        ("distill.losses.fetaure", "not a key of distill.losses; did you mean feature?"),
        ("prepare.captions_csv.imges", "key of prepare.captions_csv; did you mean images?"),
        ("teacher.tiny.widht", "not a key of teacher.tiny; did you mean width?"),
        (
            "cluster.num_worker",
            "cluster.num_worker is not a key of cluster; did you mean num_workers?",
        ),
        ("report.zzz", "report.zzz is not a key of report; its keys are examples"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, words: str
) -> None:
    with complains("params.yaml: ", words):
        load(tmp_path, put(values, key, 1))


@pytest.mark.parametrize(
    ("right", "wrong"), [("distill.epochs", "distill.epoch"), ("retrieval", "retreival")]
)
def test_a_mistyped_key_is_named_rather_than_called_missing(
    tmp_path: Path, values: dict[str, Any], complains: Any, right: str, wrong: str
) -> None:
    mistyped = put(without(values, right), wrong, 1)
    with complains(f"{wrong} is not a key", f"did you mean {right.rpartition('.')[2]}?"):
        load(tmp_path, mistyped)


@pytest.mark.slow
def test_every_missing_key_of_a_stage_is_named(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    stages = {name: section for name, section in values.items() if name not in PLACES}
    for key in keys_of(stages):
        if key != "prepare.captions_csv":  # of a source that is not used
            with complains(f"params.yaml: {key} is missing"):
                load(tmp_path, without(values, key))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_whose_section_is_missing_says_what_to_add_and_that_is_enough(
    tmp_path: Path, values: dict[str, Any], complains: Any, source: str
) -> None:
    example = f"{source}: {SOURCES[source].example}"
    values = put(values, "prepare.source", source)
    values["prepare"].pop(source, None)
    with complains(f"prepare.{source} is missing", example):
        load(tmp_path, values)
    values["prepare"] |= yaml.safe_load(example)
    assert load(tmp_path, values).prepare.source == source


def test_a_source_that_does_not_exist_is_named_with_those_that_do(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    with complains("prepare.source: choose from scenes, captions_csv", "not 'folder'"):
        load(tmp_path, put(values, "prepare.source", "folder"))


def test_the_sections_of_places_may_be_left_out(tmp_path: Path, values: dict[str, Any]) -> None:
    for section in PLACES:
        values = without(values, section)
    assert load(tmp_path, values).cluster.mode == "local"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prepare.dataset", "my/data"),
        ("prepare.samples_per_shard", 0),
        ("prepare.max_rejected", 1.5),
        ("prepare.scenes.train", "many"),
        ("teacher.tiny.batch_size", 1),
        ("teacher.tiny.width", 9),
        ("embed.crop_scale_min", 0),
        ("embed.color_jitter", 1),
        ("distill.epochs", 2.5),
        ("distill.ema_decay", 1.0),
        ("distill.learning_rate", 0),
        ("distill.feature_loss", "mse"),
        ("distill.losses.feature", -1),
        ("distill.image_size", 16),
        ("efficiency.reference_size", 100),
        ("cluster.mode", "cloud"),
        ("cluster.use_gpu", "perhaps"),
        ("cluster.num_workers", 0),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_is_named_with_its_key(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, value: Any
) -> None:
    with complains(key, f"not {value!r}"):
        load(tmp_path, put(values, key, value))


@pytest.mark.parametrize("section", ["prepare", "teacher.tiny", "distill"])
def test_a_seed_that_numpy_refuses_is_refused_here(
    tmp_path: Path, values: dict[str, Any], complains: Any, section: str
) -> None:
    with complains(f"{section}.seed"):
        load(tmp_path, put(values, f"{section}.seed", -1))


def test_the_number_of_further_faults_is_told(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    wrong = put(put(values, "distill.epochs", 0), "embed.views", 0)
    with complains("embed.views", "(and 1 more)"):
        load(tmp_path, wrong)


@pytest.mark.parametrize(
    "text",
    [b"prepare: [1, 2", b"a: b: c", b"\t- x", b"", b"- 1\n", b"just words", b"dataset: \xff\xfe"],
)
def test_a_file_that_is_no_mapping_is_told_in_one_line(
    tmp_path: Path, complains: Any, text: bytes
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with complains("params.yaml"):
        load_params(path)


def test_a_missing_file_is_named_with_the_cure(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "params.yaml", "run in the folder of params.yaml"):
        load_params(tmp_path / "params.yaml")


def test_relative_paths_start_at_the_file_whatever_the_folder_one_is_in(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clip.pt").touch()
    changed = put(put(values, "prepare.path", "data/../mine"), "teacher.source", "clip")
    changed = put(put(changed, "teacher.clip", {"model": "clip.pt"}), "teacher.path", "clip.pt")
    changed = put(changed, "distill.backbone_weights", "yolo.pt")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        params = load(tmp_path, changed)
        assert params.prepare.path == tmp_path / "mine"
        assert params.teacher.path == tmp_path / "clip.pt"
        assert params.teacher.clip and params.teacher.clip.model == str(tmp_path / "clip.pt")
        assert params.distill.backbone_weights == tmp_path / "yolo.pt"


def test_the_home_folder_is_understood_where_dvc_does_not_look(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").touch()
    changed = put(put(values, "teacher.source", "clip"), "teacher.clip", {"model": "~/w.pt"})
    changed = put(put(changed, "teacher.path", str(tmp_path / "w.pt")), "data.storage", "~/shards")
    params = load(tmp_path, put(changed, "distill.backbone_weights", "~/w.pt"))
    assert params.distill.backbone_weights == tmp_path / "w.pt"
    assert params.teacher.clip and params.teacher.clip.model == str(tmp_path / "w.pt")
    assert params.data.storage == str(tmp_path / "shards")


@pytest.mark.parametrize("key", ["prepare.path", "teacher.path"])
def test_the_home_folder_is_written_out_where_dvc_looks(
    tmp_path: Path,
    values: dict[str, Any],
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with complains(key, tmp_path / "mine"):
        load(tmp_path, put(values, key, "~/mine"))


def test_every_param_that_dvc_takes_for_a_path_is_checked_for_the_home_folder(root: Path) -> None:
    found = re.findall(r"\$\{(\w+)\.(\w+)\}", (root / "dvc.yaml").read_text(encoding="utf-8"))
    for section, key in found:
        field = Params.model_fields[section].annotation.model_fields[key]
        assert AfterValidator(_without_home) in field.metadata, (section, key)
    assert found


def test_data_may_lie_in_a_bucket(tmp_path: Path, values: dict[str, Any], complains: Any) -> None:
    found = load(tmp_path, put(values, "prepare.path", "s3://bucket/some/prefix/"))
    assert found.prepare.path == "s3://bucket/some/prefix"
    found = load(tmp_path, put(values, "prepare.path", "data/cc3m.address"))
    assert found.prepare.path == tmp_path / "data" / "cc3m.address"
    for address in ("ftp://bucket/x", "s3://", "s3://key:secret@bucket/x"):
        with complains("prepare.path"):
            load(tmp_path, put(values, "prepare.path", address))


def test_names_of_teachers_stay_names(tmp_path: Path, values: dict[str, Any]) -> None:
    params = load(tmp_path, put(values, "teacher.clip", {"model": "ViT-B/32"}))
    assert params.teacher.clip and params.teacher.clip.model == "ViT-B/32"


def test_a_weight_file_that_dvc_does_not_watch_is_refused(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    (tmp_path / "w.pt").touch()
    changed = put(put(values, "teacher.source", "clip"), "teacher.clip", {"model": "w.pt"})
    with complains("teacher.path: give it the weight file of teacher.clip.model"):
        load(tmp_path, changed)
    load(tmp_path, put(changed, "teacher.path", "."))  # its folder is watched whole


def test_the_teacher_that_is_trained_here_learns_from_what_was_prepared(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    with complains("teacher.path: give `out/images/train/manifest.json`"):
        load(tmp_path, put(values, "teacher.path", "somewhere/else"))


@pytest.mark.parametrize("source", ["clip", "open_clip", "embeddings"])
def test_the_part_of_a_teacher_that_is_missing_is_shown(
    tmp_path: Path, values: dict[str, Any], complains: Any, source: str
) -> None:
    with complains(f"teacher.{source} is missing; add to this section `{source}: {{"):
        load(tmp_path, put(values, "teacher.source", source))


def test_every_section_belongs_to_a_stage_but_those_that_say_where_things_run(
    root: Path, values: dict[str, Any]
) -> None:
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = [key for stage in stages.values() for key in stage["params"]]
    watched = {key.partition(".")[0] for key in named}
    assert watched == set(Params.model_fields) - PLACES
    assert set(values) == set(Params.model_fields)


def test_a_stage_says_what_is_wrong_in_its_first_line_and_shows_no_trace(
    tmp_path: Path, values: dict[str, Any], run_python: Any
) -> None:
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(put(values, "prepare.sead", 1)), encoding="utf-8"
    )
    result = run_python("-m", "stages.prepare", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "prepare: params.yaml: prepare.sead is not a key of prepare; did you mean seed?"
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_of_a_key_is_answered_with_the_new_one(
    root: Path, tmp_path: Path, complains: Any, old: str
) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    if old.startswith("teacher.embeddings."):
        recipe = root / "pipeline" / "config" / "recipes" / "cifar10-embeddings.yaml"
        values["teacher"] = yaml.safe_load(recipe.read_text(encoding="utf-8"))["teacher"]
    *sections, key = old.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[key] = section.pop(RENAMED[old])
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with complains(old, ".".join([*sections, RENAMED[old]])):
        load_params(path)
