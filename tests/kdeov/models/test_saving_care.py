"""What is saved can be loaded, and what could not leaves the model that was there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from kdeov import KdeovError, KDEOVModel
from kdeov.data.transform import ImageTransform


def pruned(model):
    layer = model.text_encoder.transformer.resblocks[0].mlp.c_fc
    prune.l1_unstructured(layer, "weight", 0.5)


def parametrized(model):
    weight_norm(model.text_encoder.transformer.resblocks[0].mlp.c_fc)


def text_wrapped(model):
    model.text_encoder.transformer = nn.DataParallel(model.text_encoder.transformer)


def quantized(model):
    torch.ao.quantization.quantize_dynamic(model.text_encoder, {nn.Linear}, inplace=True)


def adapted(model):
    model.text_encoder.adapter = nn.Linear(2, 2)


def image_wrapped(model):
    model.student.backbone = nn.DataParallel(model.student.backbone)


def of_another_shape(model):
    model.student.projection.linear = nn.Linear(8, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [pruned, parametrized, text_wrapped, quantized, adapted, image_wrapped, of_another_shape],
)
def test_what_could_not_be_loaded_again_leaves_the_model_that_was_there(
    model_of, tmp_path, mistake, change
):
    model_of().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = copy.deepcopy(model_of())
    change(model)
    with mistake("prune.remove", "DataParallel"):
        model.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_layers_that_share_their_weights_are_saved(model_of, tmp_path, image):
    model = copy.deepcopy(model_of())
    layers = [m for m in model.student.modules() if isinstance(m, nn.Conv2d)]
    first, second = next(
        (a, b) for a in layers for b in layers if a is not b and a.weight.shape == b.weight.shape
    )
    second.weight = first.weight
    model.save(tmp_path)
    loaded = KDEOVModel.load(tmp_path, "cpu")
    assert torch.equal(loaded.encode_image(image((64, 64))), model.encode_image(image((64, 64))))


def test_a_name_of_a_teacher_may_be_a_path(model_of, tmp_path):
    model = model_of()
    parts = KDEOVModel.from_parts(
        model.student, model.text_encoder, ImageTransform(64), tmp_path / "clip.pt"
    )
    parts.save(tmp_path / "model")
    loaded = KDEOVModel.load(tmp_path / "model", "cpu")
    assert loaded.clip_model_name == str(tmp_path / "clip.pt")


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "é" * 200, "a\0b"])
def test_a_name_that_no_disk_can_hold_is_refused(model_of, tmp_path, mistake, name):
    for use in (model_of().save, KDEOVModel.load):
        with mistake("no path", "255 bytes"):
            use(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_seen_before_the_first_file_is_replaced(
    model_of, tmp_path, mistake
):
    model_of().save(tmp_path)
    (tmp_path / "student.safetensors").unlink()
    (tmp_path / "student.safetensors").mkdir()
    before = (tmp_path / "config.json").read_bytes()
    with mistake(tmp_path, "as before"):
        model_of("yolov5n").save(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("device", "word"), [("meta", "no numbers"), ("", "''"), (99, "99"), ([], "[]")]
)
def test_a_device_without_numbers_and_one_that_is_none_are_refused(
    clip_file, mistake, device, word
):
    with mistake("device", word):
        KDEOVModel(clip_file, device=device, image_size=64)


@pytest.mark.parametrize("size", [True, 10**9, 10**30])
def test_a_side_that_no_memory_holds_is_refused(clip_file, mistake, size):
    with mistake(f"image_size is {size}", "4096"):
        KDEOVModel(clip_file, device="cpu", image_size=size)


def test_true_is_no_number_of_hits(model_of, image, mistake):
    with mistake("rerank is True"):
        model_of().rank([image((64, 64))], "a cat", rerank=True)


def test_no_embedding_of_a_text_is_no_heat_map(model_of, image, mistake):
    with mistake("(0, 32)"):
        model_of().heatmap(image((64, 64)), torch.zeros(0, 32))


def test_the_cure_of_missing_weights_fits_a_notebook(clip_file, tmp_path):
    for path, cure in ((tmp_path / "yolov8n.pt", "check the path"), (tmp_path, "a folder; name")):
        with pytest.raises(KdeovError, match=cure) as caught:
            KDEOVModel(clip_file, device="cpu", backbone_weights=path)
        assert "params.yaml" not in str(caught.value)


def test_a_file_of_a_whole_module_is_not_answered_with_advice_to_run_it(model_of, tmp_path):
    torch.save(model_of().student.projection, tmp_path / "whole.pt")
    with pytest.raises(KdeovError, match=r"more than tensors \(kdeov\.models\.") as caught:
        KDEOVModel(tmp_path / "whole.pt", device="cpu")
    assert str(caught.value).isprintable()
