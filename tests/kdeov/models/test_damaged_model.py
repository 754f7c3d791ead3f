"""A saved model with a damaged file is refused; one of an older version, without digests, loads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from kdeov import KDEOVModel
from kdeov.data.transform import ImageTransform
from kdeov.text.table import PrecomputedTextEncoder
from tests.helpers.damage import flips

KINDS = ("clip", "table")


@pytest.fixture
def saved(model_of, student_of, tmp_path, request):
    model = model_of()
    if request.param == "table":
        texts = PrecomputedTextEncoder(["a cat", "a dog"], torch.eye(2, 32))
        model = KDEOVModel.from_parts(student_of(), texts, ImageTransform(size=64), "a table")
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("saved", KINDS, indirect=True)
def test_a_flipped_bit_of_any_file_is_reported_with_the_file(saved, mistake):
    for path in sorted(saved.iterdir()):
        whole = path.read_bytes()
        for damaged in flips(whole, 30, seed=len(whole)):
            path.write_bytes(damaged)
            with mistake(path, "save it again"):
                KDEOVModel.load(saved, "cpu")
        path.write_bytes(whole)
    KDEOVModel.load(saved, "cpu")


@pytest.mark.parametrize("saved", KINDS, indirect=True)
def test_a_file_of_another_model_is_not_taken_for_this_ones(saved, mistake, model_of, tmp_path):
    model_of("yolov8n", "cross_attention").save(tmp_path / "other")
    for name in ("student.safetensors", "config.json"):
        mixed = tmp_path / f"with {name}"
        shutil.copytree(saved, mixed)
        shutil.copy(tmp_path / "other" / name, mixed / name)
        with mistake(mixed):
            KDEOVModel.load(mixed, "cpu")


@pytest.mark.parametrize("saved", KINDS, indirect=True)
def test_a_model_that_was_saved_without_digests_loads_with_a_warning(saved, caplog):
    now = KDEOVModel.load(saved, "cpu")
    assert "digest" not in caplog.text
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    older = {key: value for key, value in config.items() if key not in ("files", "digest")}
    (saved / "config.json").write_text(json.dumps(older, indent=2) + "\n", encoding="utf-8")
    then = KDEOVModel.load(saved, "cpu")
    assert "saved without digests" in caplog.text
    assert then.config() == now.config()
    for name, value in now.state_dict().items():
        assert torch.equal(then.state_dict()[name], value), name
