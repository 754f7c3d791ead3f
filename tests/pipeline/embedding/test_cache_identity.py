"""A cache of another teacher, other views or images is refused, and every difference named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from kdeov.weights.state_dict import read_state_dict, write_tensors
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import (
    differences,
    read_teacher_identity,
    require_identity,
)
from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards
from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.results import edit_json
from tests.helpers.teacher_cache import MakeParams, files, identity_of, paired
from tests.helpers.teachers import clip_file


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("teacher", "weights_sha256", "f" * 64, "teacher.weights_sha256 is '"),
        ("teacher", "tokenizer", "other", "teacher.tokenizer is 'clip-bpe-"),
        ("teacher", "transform.mean", [0.5] * 3, "teacher.transform.mean is [0.48145466, "),
        ("teacher", "transform.std", [0.5] * 3, "teacher.transform.std is [0.26862954, "),
        ("teacher", "transform.interpolation", "nearest", "(teacher.transform.interpolation is "),
        (
            "teacher",
            "transform.crop",
            "none",
            "(teacher.transform.crop is 'center', wanted 'none')",
        ),
        ("teacher", "transform.size", 224, "(teacher.transform.size is 64, wanted 224)"),
        ("views", "seed", 7, "(views.seed is 0, wanted 7)"),
        ("views", "count", 4, "(views.count is 3, wanted 4)"),
        ("", "precision", "bfloat16", "(precision is 'float32', wanted 'bfloat16')"),
        ("", "dtype", "float32", "(dtype is 'float16', wanted 'float32')"),
        ("", "normalised", False, "(normalised is True, wanted False)"),
        ("", "code", "0" * 16, "wanted '0000000000000000')"),
    ],
)
def test_a_cache_of_something_else_is_refused_and_just_the_difference_named(
    built: Layout, params: Params, complains: Any, section: str, key: str, value: Any, words: str
) -> None:
    wanted = copy.deepcopy(identity_of(built, params))
    part: Any = wanted[section] if section else wanted
    *path, last = key.split(".")
    for name in path:
        part = part[name]
    part[last] = value
    with complains(built.embeddings / "train", words, "run `dvc repro embed`"):
        PairedShards(built.images / "train", built.embeddings / "train", wanted)
    assert len(differences(wanted, identity_of(built, params))) == 1


def test_every_difference_is_named_at_once(complains: Any) -> None:
    wanted = {"a": {"b": 1, "c": [1, 2]}, "dtype": "float16"}
    found = {"a": {"b": 2, "c": [1, 2]}, "extra": True}
    with complains(
        "here: ", "a.b is 2, wanted 1", "dtype is None, wanted 'float16'", "extra is True"
    ):
        require_identity(wanted, found, Path("here"))
    require_identity(wanted, json.loads(json.dumps(wanted)), Path("here"))


@pytest.mark.parametrize("nested", [True, False])
def test_another_teacher_is_one_difference_beside_those_of_the_views(nested: bool) -> None:
    wanted: dict[str, Any] = {
        "library": "clip", "name": "ViT-B/32", "weights_sha256": "a" * 64, "embed_dim": 512,
        "tokenizer": "bpe", "transform": {"size": 224, "mean": [0.5]},
    }  # fmt: skip
    found = {"library": "clip", "name": "tiny", "weights_sha256": "b" * 64, "transform": None}
    if not nested:
        (line,) = differences(wanted, found)
        assert line.startswith("teacher is 'tiny' with weights bbbbbbbb, wanted 'ViT-B/32' with")
        return
    lines = differences(
        {"teacher": wanted, "views": {"seed": 0}}, {"teacher": found, "views": {"seed": 1}}
    )
    assert len(lines) == 2 and "'tiny'" in lines[0] and "'ViT-B/32'" in lines[0]
    assert lines[1] == "views.seed is 1, wanted 0"


def test_teacher_shards_of_other_images_are_refused_with_both_keys(
    checkout: Layout, params: Params, complains: Any
) -> None:
    folder = checkout.embeddings / "train"
    first, second = folder / "000000.tar", folder / "000001.tar"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    with complains(first, "train-0000010", "train-0000000", "run `dvc repro -f embed`"):
        list(paired(checkout, params))


def test_a_teacher_that_is_not_its_identity_is_refused(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = checkout.teacher / "identity.json"
    edit_json(path, lambda v: v.update(tokenizer="another"))
    with complains(path, "tokenizer is 'another', wanted 'clip-bpe-", "dvc repro -f teacher"):
        load_teacher(checkout.teacher)


def test_one_changed_weight_of_the_teacher_refuses_the_cache(
    checkout: Layout, make_params: MakeParams, params: Params, tmp_path: Path, complains: Any
) -> None:
    state = read_state_dict(checkout.teacher / "model.safetensors")
    state["text_projection"].view(-1)[3] += 1e-3
    write_tensors(tmp_path / "other.safetensors", state)
    name = read_teacher_identity(checkout.teacher)["name"]
    (tmp_path / "other.safetensors").rename(tmp_path / name)
    other = make_params(teacher=clip_file(tmp_path / name))
    write_teacher(other.teacher, checkout.images, checkout.teacher)
    with complains("(teacher.weights_sha256 is ", "run `dvc repro embed`"):
        paired(checkout, params)


def test_a_teacher_with_other_weights_than_its_identity_says_is_refused(
    checkout: Layout, complains: Any
) -> None:
    path = checkout.teacher / "model.safetensors"
    state = read_state_dict(path)
    state["text_projection"] = state["text_projection"] + 1
    write_tensors(path, state)
    with complains(checkout.teacher, "not those of identity.json", "dvc repro -f teacher"):
        load_teacher(checkout.teacher)


def test_a_teacher_is_checked_against_the_digest_that_params_name(
    built: Layout, make_params: MakeParams, weights: Path, tmp_path: Path, complains: Any
) -> None:
    found = read_teacher_identity(built.teacher)["weights_sha256"]
    right = make_params(teacher={**clip_file(weights), "sha256": found})
    write_teacher(right.teacher, built.images, tmp_path / "teacher")
    assert files(tmp_path / "teacher") == files(built.teacher)
    wrong = make_params(teacher={**clip_file(weights), "sha256": "0" * 64})
    with complains(found, "0" * 64):
        write_teacher(wrong.teacher, built.images, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_manifests_of_the_cache_state_what_it_was_made_from(built: Layout, params: Params) -> None:
    for split in SPLITS:
        manifest = Manifest.read(built.embeddings / split)
        assert manifest.identity == identity_of(built, params, split)
        assert manifest.identity["dtype"] == "float16" and manifest.identity["normalised"] is True
        transform = manifest.identity["teacher"]["transform"]
        assert (transform["size"], transform["interpolation"], transform["crop"]) == (
            64, "bicubic", "center",
        )  # fmt: skip
