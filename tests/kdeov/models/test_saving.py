"""A model on disk."""

from __future__ import annotations

import copy
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from kdeov import KDEOVModel
from kdeov.models.fusion import FUSIONS
from kdeov.weights.state_dict import read_state_dict
from tests.helpers.backbones import FEW

NAMES = ("cat", "dog", "traffic light")
FILES = {"text_encoder.json", "config.json", "student.safetensors", "text_encoder.safetensors"}


@pytest.fixture
def images(image):
    return [image((80, 60), seed) for seed in range(5)]


@pytest.fixture
def saved(model_of, tmp_path):
    model_of().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("backbone", FEW)
def test_a_saved_model_gives_bit_equal_embeddings(model_of, images, tmp_path, backbone, fusion):
    model = copy.deepcopy(model_of(backbone, fusion))
    nn.init.normal_(model.student.fusion.out.weight)
    model.save(tmp_path / "deep" / "model")
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == FILES
    loaded = KDEOVModel.load(tmp_path / "deep" / "model", "cpu")
    assert not any(module.training for module in loaded.modules())
    assert loaded.config() == model.config()
    ours, theirs = (m(images, ["a cat", *NAMES, "sky"]) for m in (model, loaded))
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name


def test_a_saved_model_needs_no_clip_weights(clip_file, images, tmp_path):
    weights = tmp_path / "clip.safetensors"
    weights.write_bytes(clip_file.read_bytes())
    model = KDEOVModel(weights, device="cpu", image_size=64).eval()
    model.save(tmp_path / "model")
    weights.unlink()
    loaded = KDEOVModel.load(tmp_path / "model", "cpu")
    assert torch.equal(
        loaded.zero_shot_classify(images, NAMES), model.zero_shot_classify(images, NAMES)
    )


def test_a_folder_that_is_no_model_is_named(tmp_path, mistake):
    for folder in (tmp_path / "absent", tmp_path):
        with mistake(folder, "dvc repro distill"):
            KDEOVModel.load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_of_a_model_is_named(saved, mistake, name):
    (saved / name).unlink()
    with mistake(saved, name):
        KDEOVModel.load(saved, "cpu")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_torn_file_of_a_model_is_reported_in_one_line(saved, mistake, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with mistake(saved):
        KDEOVModel.load(saved, "cpu")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": 99}', b'{"format": 1}', b"\xff"])
def test_a_config_of_something_else_is_reported_in_one_line(saved, mistake, content):
    (saved / "config.json").write_bytes(content)
    with mistake(saved):
        KDEOVModel.load(saved, "cpu")


def test_weights_of_another_student_are_reported_in_one_line(saved, mistake):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(
        json.dumps({**config, "backbone_type": "yolov5s"}), encoding="utf-8"
    )
    with mistake(saved):
        KDEOVModel.load(saved, "cpu")


@contextmanager
def files_of_at_most(size: int):
    """Writing fails in the middle of a larger file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["student.safetensors", "text_encoder.safetensors"])
def test_a_full_disk_leaves_the_model_that_was_there(saved, model_of, mistake, images, name):
    before, size = content(saved), (saved / name).stat().st_size
    other = copy.deepcopy(model_of("yolov5n" if name.startswith("student") else "yolov8n"))
    nn.init.normal_(other.student.projection.linear.weight)
    with files_of_at_most(size // 2), mistake(saved):
        other.save(saved)
    assert content(saved) == before
    loaded = KDEOVModel.load(saved, "cpu")
    assert torch.equal(loaded.encode_image(images), model_of().encode_image(images))


def test_a_full_disk_leaves_no_folder_where_there_was_none(model_of, tmp_path, mistake):
    with files_of_at_most(1000), mistake(tmp_path / "new"):
        model_of().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_saving_keeps_the_other_files_of_a_folder(saved, model_of):
    (saved / "README.md").write_text("mine", encoding="utf-8")
    killed, running = saved / ".partial-1", saved / ".partial-2"
    for folder in (killed, running):
        folder.mkdir()
        (folder / "student.safetensors").write_bytes(b"half")
    os.utime(killed, (0, 0))
    model_of().save(saved)
    assert {path.name for path in saved.iterdir()} == FILES | {"README.md", running.name}
    assert (saved / "README.md").read_text(encoding="utf-8") == "mine"
    assert (running / "student.safetensors").read_bytes() == b"half"


def test_many_saves_into_one_folder_at_once_leave_one_model(model_of, tmp_path, images):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model_of().save(tmp_path / "model"), range(8)))
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    loaded = KDEOVModel.load(tmp_path / "model", "cpu")
    assert torch.equal(loaded.encode_image(images), model_of().encode_image(images))


@pytest.mark.parametrize("folder", [None, 3])
def test_what_is_no_path_is_refused(model_of, mistake, folder):
    with mistake(folder, "path"):
        model_of().save(folder)
    with mistake(folder, "path"):
        KDEOVModel.load(folder)


def test_a_folder_below_a_file_is_named(model_of, tmp_path, mistake):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "model"):
        with mistake(folder):
            model_of().save(folder)
        with mistake(folder):
            KDEOVModel.load(folder)


def test_a_tilde_is_the_home_folder(model_of, clip_file, tmp_path, monkeypatch, images):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model_of().save("~/model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    loaded = KDEOVModel.load("~/model", "cpu")
    assert torch.equal(loaded.encode_image(images), model_of().encode_image(images))
    (tmp_path / "clip.safetensors").write_bytes(clip_file.read_bytes())
    assert KDEOVModel("~/clip.safetensors", device="cpu", image_size=64).embed_dim == 32
    assert not (tmp_path / "~").exists()


def compiled(model, part):
    """A model with a part under torch.compile, which nothing runs here."""
    if part == "all":
        return torch.compile(model)
    parent, _, name = part.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, name, torch.compile(getattr(owner, name)))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["all", "student", "student.backbone", "student.backbone.trunk", "text_encoder",
             "text_encoder.transformer"],
)  # fmt: skip
def test_a_compiled_model_is_saved_as_the_plain_one(model_of, tmp_path, images, part):
    plain = model_of()
    plain.save(tmp_path / "plain")
    compiled(copy.deepcopy(plain), part).save(tmp_path / "compiled")
    assert content(tmp_path / "compiled") == content(tmp_path / "plain")
    loaded = KDEOVModel.load(tmp_path / "compiled", "cpu")
    assert torch.equal(loaded.encode_image(images), plain.encode_image(images))


def test_weights_that_a_compiled_module_saved_have_plain_names(student_of, tmp_path):
    student = student_of()
    torch.save(torch.compile(copy.deepcopy(student)).state_dict(), tmp_path / "student.pt")
    assert read_state_dict(tmp_path / "student.pt").keys() == student.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_is_saved_and_loaded(model_of, tmp_path, images, dtype):
    model = copy.deepcopy(model_of()).to(dtype)
    model.save(tmp_path / "model")
    loaded = KDEOVModel.load(tmp_path / "model", "cpu")
    assert loaded.dtype == torch.float32
    expected = model_of().encode_image(images)
    assert torch.cosine_similarity(loaded.encode_image(images), expected).min() > 0.99
    assert loaded.zero_shot_classify(images, NAMES).shape == (5, 3)


def test_an_unknown_device_is_refused(saved, mistake):
    with mistake("'gpu'"):
        KDEOVModel.load(saved, "gpu")


@pytest.mark.parametrize("change", ["pruned", "parametrized"])
def test_what_could_not_be_loaded_again_is_not_saved(model_of, tmp_path, mistake, change):
    model = copy.deepcopy(model_of())
    layer = next(m for m in model.student.modules() if isinstance(m, nn.Conv2d))
    if change == "pruned":
        prune.l1_unstructured(layer, "weight", 0.5)
    else:
        weight_norm(layer)
    model_of().save(tmp_path)
    before = content(tmp_path)
    with mistake("weight", "remove"):
        model.save(tmp_path)
    assert content(tmp_path) == before
    if change == "pruned":
        prune.remove(layer, "weight")
        model.save(tmp_path)
        assert KDEOVModel.load(tmp_path, "cpu").student.state_dict().keys() == (
            model.student.state_dict().keys()
        )


def test_an_empty_path_is_not_the_current_folder(model_of, mistake):
    with mistake("''"):
        model_of().save("")
