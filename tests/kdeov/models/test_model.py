"""The model as a person uses it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from kdeov import KDEOVModel
from kdeov.data.transform import ImageTransform
from kdeov.models.fusion import FUSIONS
from kdeov.models.student import VisualStudent
from kdeov.models.yolo import YOLOS
from kdeov.text.clip import FrozenCLIPTextEncoder
from tests.helpers.backbones import FEW, SMALL

NAMES = ("cat", "dog", "traffic light")
FILES = {"text_encoder.json", "config.json", "student.safetensors", "text_encoder.safetensors"}


@pytest.fixture
def images(image):
    return [image((80, 60), seed) for seed in range(5)]


@pytest.fixture
def saved(model_of, tmp_path):
    model_of().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (100, 7), (1, 40)])
def test_mean_of_the_dense_map_is_the_embedding(model_of, apart, backbone, size):
    model, pixels = copy.deepcopy(model_of(backbone)).double(), torch.randn(2, 3, *size).double()
    with torch.no_grad():
        dense = model.dense_features(pixels)
        embedding = model.encode_image(pixels, normalize=False)
    strides = model.student.backbone.strides
    fine, coarse = strides[0], strides[-1]
    assert dense.shape == (2, 32, *(-(-side // coarse) * (coarse // fine) for side in size))
    assert apart(dense.mean(dim=(2, 3)), embedding) < 1e-6


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_never_changes_the_index_embedding(model_of, images, fusion):
    model, texts = copy.deepcopy(model_of(fusion=fusion)), ["a cat"] * 5
    index, fresh = model.encode_image(images), model(images, texts)
    for parameter in model.student.fusion.parameters():
        nn.init.normal_(parameter)
    trained, other = model(images, texts), model(images, ["a dog"] * 5)
    assert torch.equal(model.encode_image(images), index)
    assert torch.equal(trained["image_embeds"], fresh["image_embeds"])
    assert torch.equal(trained["image_embeds"], other["image_embeds"])
    assert not torch.allclose(trained["fused_embeds"], fresh["fused_embeds"], atol=1e-2)
    assert not torch.allclose(trained["fused_embeds"], other["fused_embeds"], atol=1e-2)


@pytest.mark.parametrize("backbone", FEW)
def test_forward_gives_unit_embeddings_and_clips_logits(model_of, images, backbone):
    model, texts = model_of(backbone), [f"image {n}" for n in range(5)]
    output = model(images, texts)
    assert {name: tuple(value.shape) for name, value in output.items()} == {
        "image_embeds": (5, 32),
        "text_embeds": (5, 32),
        "fused_embeds": (5, 32),
        "logits": (5, 5),
    }
    for name in ("image_embeds", "text_embeds", "fused_embeds"):
        torch.testing.assert_close(output[name].norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(output["image_embeds"], model.encode_image(images))
    torch.testing.assert_close(output["text_embeds"], model.encode_text(texts))
    torch.testing.assert_close(
        output["logits"], model.compute_similarity(images, texts) / 0.07, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("backbone", ["yolov8n", "timm:shvit_s1", "timm:test_vit"])
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (100, 7)])
def test_heat_map_has_the_size_of_the_image(model_of, backbone, size):
    heat = model_of(backbone).heatmap(torch.randn(2, 3, *size), NAMES)
    assert heat.shape == (2, 3, *size)
    assert heat.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(("backbone", "stride"), [("yolov8n", 8), ("timm:shvit_s1", 16)])
def test_heat_map_shows_the_cosine_of_each_location(model_of, backbone, stride):
    model, pixels = model_of(backbone), torch.randn(1, 3, 8 * stride, 8 * stride)
    heat, text = model.heatmap(pixels, NAMES), model.encode_text(NAMES)
    dense = model.dense_features(pixels)[0]
    for row, column in ((0, 0), (3, 5), (7, 7)):
        cosines = torch.cosine_similarity(dense[:, row, column], text, dim=-1)
        middle = [slice(stride * at + stride // 2 - 1, stride * at + stride // 2 + 1)
                  for at in (row, column)]  # fmt: skip
        # the centre of a cell lies between pixels, near to no neighbouring cell
        cell = heat[0, :, middle[0], middle[1]]
        torch.testing.assert_close(cell.mean(dim=(1, 2)), cosines, rtol=0, atol=0.1)


def test_heat_map_of_a_pil_image_has_the_size_of_the_transform(model_of, image):
    assert model_of().heatmap(image((80, 60)), NAMES).shape == (1, 3, 64, 64)


def test_heat_map_takes_vectors_of_any_length_for_texts(model_of):
    model, pixels = model_of(), torch.randn(1, 3, 64, 64)
    embeddings = model.encode_text(NAMES, normalize=False)
    torch.testing.assert_close(model.heatmap(pixels, 3 * embeddings), model.heatmap(pixels, NAMES))


@pytest.mark.parametrize("size", [(64, 64), (90, 90), (96, 64), (50, 120)])
def test_a_image_looks_alike_as_pil_and_as_tensor(model_of, image, size):
    image = image(size)
    from_pil, from_tensor = map(model_of().preprocess, (image, pil_to_tensor(image)))
    assert from_pil.shape == from_tensor.shape == (1, 3, 64, 64)
    assert (from_pil - from_tensor).abs().mean() < 0.02  # rounding: pixels are 0.015 apart


def test_every_kind_of_image_is_classified_alike(model_of, image):
    model, image = model_of(), image((64, 64))
    logits = model.zero_shot_classify(image, NAMES)
    assert logits.shape == (1, 3)
    torch.testing.assert_close(
        logits,
        model.compute_similarity(image, [f"a photo of a {name}." for name in NAMES]) / 0.07,
        rtol=1e-4,
        atol=1e-4,
    )
    pixels = pil_to_tensor(image)
    for same in ([image], pixels, pixels[None], model.transform(image), model.preprocess(image)):
        torch.testing.assert_close(
            model.zero_shot_classify(same, NAMES), logits, rtol=1e-3, atol=1e-3
        )


def test_tensors_that_are_no_images_are_refused(model_of, mistake):
    for shape in ((64, 64), (1, 1, 64, 64), (64, 64, 3), (1, 2, 3, 64, 64)):
        with mistake("images of shape", "[B, 3, H, W]"):
            model_of().encode_image(torch.zeros(shape))


def test_rank_orders_images_by_cosine(model_of, images):
    model = model_of()
    order, scores = model.rank(images, "a cat")
    cosines = model.compute_similarity(images, ["a cat"])[:, 0]
    assert sorted(order.tolist()) == list(range(5))
    torch.testing.assert_close(scores, cosines[order])
    assert torch.equal(scores, scores.sort(descending=True).values)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("rerank", [1, 3, 5, 9])
def test_rerank_moves_the_first_hits_only(model_of, images, fusion, rerank):
    model = copy.deepcopy(model_of(fusion=fusion))
    nn.init.normal_(model.student.fusion.out.weight)
    plain, plain_scores = model.rank(images, "a cat")
    order, scores = model.rank(images, "a cat", rerank=rerank)
    assert sorted(order.tolist()) == list(range(5))
    assert set(order[:rerank].tolist()) == set(plain[:rerank].tolist())
    assert torch.equal(order[rerank:], plain[rerank:])
    assert torch.equal(scores[rerank:], plain_scores[rerank:])
    fused = model(images, ["a cat"] * 5)
    fused = (fused["fused_embeds"] * fused["text_embeds"]).sum(dim=-1)
    torch.testing.assert_close(scores[:rerank], fused[order[:rerank]], rtol=1e-4, atol=1e-4)
    assert torch.equal(scores[:rerank], scores[:rerank].sort(descending=True).values)


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


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_model_is_built_from_a_path_to_clip_weights(clip_files, images, family):
    model = KDEOVModel(clip_files[family], "yolov8n", "film", "cpu", image_size=32).eval()
    assert model.embed_dim == 32
    assert model.compute_similarity(images, NAMES).shape == (5, 3)


def test_a_student_of_another_width_is_refused(clip_file, student_of, mistake):
    text = FrozenCLIPTextEncoder(clip_file)
    with mistake("16 dimensions", "32"):
        KDEOVModel.from_parts(VisualStudent(embed_dim=16), text, ImageTransform(64), "tiny")
    model = KDEOVModel.from_parts(student_of(), text, ImageTransform(64), "tiny")
    assert model.clip_model_name == "tiny"


@pytest.mark.parametrize(
    "names", [("yolov9", "film"), ("yolov8n", "concat")], ids=["backbone", "fusion"]
)
def test_unknown_parts_are_refused_with_the_known_ones(clip_file, mistake, names):
    wrong = next(name for name in names if name not in (*YOLOS, *FUSIONS))
    known = YOLOS if wrong == names[0] else FUSIONS
    with mistake(repr(wrong), ", ".join(known)):
        KDEOVModel(clip_file, *names, "cpu")
