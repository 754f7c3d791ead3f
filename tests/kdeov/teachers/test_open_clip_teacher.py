"""Teachers of open_clip: embeddings, saved folders and identity."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file

from kdeov import ClipTeacher
from kdeov.prompts import TEMPLATES
from kdeov.teachers.open_clip import OpenClipTeacher
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.weights.digests import with_digest
from kdeov.weights.state_dict import state_dict_sha256

TEXTS = ["a cat", "two dogs on a beach", "", "Traffic light, at night!", "naïve café 猫"]
# mean, std and filter as open_clip records them for SigLIP and MobileCLIP
PREPROCESSING = {
    "tiny-siglip": {
        "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"
    },
    "tiny-mobileclip": {
        "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"
    },
}  # fmt: skip
ARCHITECTURES = ["tiny-vit-quickgelu", "tiny-resnet", "tiny-siglip", "tiny-mobileclip", "tiny-coca"]


@pytest.fixture(scope="module")
def weights_of(open_clip_models, tmp_path_factory):
    """Makes a weight file with, where it is not OpenAI's, the preprocessing beside it."""

    def make(architecture):
        folder = tmp_path_factory.mktemp(architecture)
        path = folder / "weights.safetensors"
        save_file(open_clip_models(architecture).state_dict(), path)
        if architecture in PREPROCESSING:
            config = {"preprocess_cfg": PREPROCESSING[architecture]}
            (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="module")
def teacher_of(weights_of):
    made = {}

    def make(architecture):
        if architecture not in made:
            made[architecture] = OpenClipTeacher.load(architecture, weights_of(architecture))
        return made[architecture]

    return make


def unit_embeddings(teacher, pixels):
    return F.normalize(teacher.encode_image(pixels), dim=-1), F.normalize(
        teacher.encode_text(TEXTS), dim=-1
    )


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_openai_weights_give_the_embeddings_of_clip(open_clip, clip_files, image, family):
    clip_teacher = ClipTeacher.load(clip_files[family])
    teacher = OpenClipTeacher.load(f"tiny-{family}-quickgelu", clip_files[family])
    assert teacher.transform == clip_teacher.transform
    pixels = teacher.preprocess([image((90, 70), seed) for seed in range(3)])
    for ours, theirs in zip(
        unit_embeddings(teacher, pixels), unit_embeddings(clip_teacher, pixels), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(teacher.text.tokenize(TEXTS).int(), clip_teacher.text.tokenize(TEXTS).int())
    torch.testing.assert_close(teacher.text.logit_scale, clip_teacher.text.logit_scale)
    with_gelu = OpenClipTeacher.load(f"tiny-{family}", clip_files[family])
    assert not torch.allclose(
        unit_embeddings(with_gelu, pixels)[1],
        unit_embeddings(teacher, pixels)[1],
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.slow
def test_a_full_vit_b_32_gives_the_vectors_of_clip(clip, image, tmp_path):
    model = clip.model.CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    clip.model.convert_weights(model)
    file = tmp_path / "vit_b_32.safetensors"
    save_file(model.state_dict(), file)
    clip_teacher = ClipTeacher.load(file)
    teacher = OpenClipTeacher.load("ViT-B-32-quickgelu", file)
    pixels = teacher.preprocess([image((300, 260), seed) for seed in range(2)])
    for ours, theirs in zip(
        unit_embeddings(teacher, pixels), unit_embeddings(clip_teacher, pixels), strict=True
    ):
        assert F.cosine_similarity(ours, theirs).min() > 1 - 1e-3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_teacher_embeds_as_open_clip_does(open_clip_models, teacher_of, image, architecture):
    model, teacher = open_clip_models(architecture), teacher_of(architecture)
    pixels = teacher.preprocess([image((90, 70), seed) for seed in range(3)])
    tokens = teacher.text.tokenize(TEXTS)
    with torch.no_grad():
        image, text = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(tokens, normalize=True),
        )
    ours_image, ours_text = unit_embeddings(teacher, pixels)
    torch.testing.assert_close(ours_image, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours_text, text, rtol=0, atol=1e-5)
    assert image.shape[1] == teacher.embed_dim == teacher.text.embed_dim
    assert teacher.text.logit_scale.shape == ()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_teacher_is_the_same_one(teacher_of, image, tmp_path, architecture):
    teacher = teacher_of(architecture)
    teacher.save(tmp_path / "saved")
    again = OpenClipTeacher.open(tmp_path / "saved")
    assert again.identity() == teacher.identity()
    assert not any(parameter.requires_grad for parameter in again.train().parameters())
    assert not any(module.training for module in again.modules())
    pixels = teacher.preprocess([image((90, 70))])
    for ours, theirs in zip(
        unit_embeddings(again, pixels), unit_embeddings(teacher, pixels), strict=True
    ):
        assert torch.equal(ours, theirs)
    again.save(tmp_path / "twice")
    for file in (tmp_path / "saved").iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes()


@pytest.mark.parametrize("architecture", ["tiny-resnet", "tiny-siglip"])
def test_open_clip_reads_what_was_saved(open_clip, teacher_of, image, tmp_path, architecture):
    teacher = teacher_of(architecture)
    teacher.save(tmp_path)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    square = image((90, 90))
    theirs = transform(square)[None]
    torch.testing.assert_close(teacher.preprocess([square]), theirs, rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = model.eval().encode_image(theirs)
    torch.testing.assert_close(teacher.encode_image(theirs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", PREPROCESSING)
def test_squares_are_shown_as_open_clip_shows_them(teacher_of, image, architecture):
    teacher, square = teacher_of(architecture), image((200, 200))
    expected = image_transform_v2(
        PreprocessCfg(**PREPROCESSING[architecture], size=teacher.transform.size), is_train=False
    )(square)
    torch.testing.assert_close(teacher.transform(square), expected, rtol=0, atol=1e-5)


def test_a_squashing_teacher_gets_the_centred_square_and_a_line_in_the_log(
    open_clip, weights_of, image, caplog
):
    with caplog.at_level(logging.INFO, logger="kdeov"):
        teacher = OpenClipTeacher.load("tiny-siglip", weights_of("tiny-siglip"))
    assert [line for line in caplog.messages if "squash" in line]
    wide = image((300, 200))
    other = wide.copy()
    other.paste(image((40, 200), seed=1), (0, 0))
    other.paste(image((40, 200), seed=2), (260, 0))
    assert torch.equal(teacher.transform(wide), teacher.transform(other))
    assert teacher.identity().transform["crop"] == "center"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_encoder_is_saved_alone(teacher_of, tmp_path, architecture):
    encoder = teacher_of(architecture).text
    encoder.save(tmp_path)
    assert not [key for key in load_file(tmp_path / "text_encoder.safetensors") if "visual" in key]
    assert "vision" not in (tmp_path / "text_encoder.json").read_text(encoding="utf-8")
    again = OpenClipTextEncoder.load(tmp_path)
    assert torch.equal(again(TEXTS), encoder(TEXTS))
    assert torch.equal(again.logit_scale, encoder.logit_scale)
    assert again.tokenizer_digest() == encoder.tokenizer_digest()
    assert not any(parameter.requires_grad for parameter in again.train().parameters())


def test_batches_and_tokens_change_nothing(teacher_of):
    encoder = teacher_of("tiny-siglip").text
    torch.testing.assert_close(encoder(TEXTS, batch_size=2), encoder(TEXTS), rtol=0, atol=1e-5)
    assert torch.equal(encoder(encoder.tokenize(TEXTS)), encoder(TEXTS))
    assert encoder.tokenize([]).shape == (0, 28)


def test_class_embeddings_are_unit_means_of_unit_prompts(teacher_of, mistake):
    encoder, templates = teacher_of("tiny-siglip").text, TEMPLATES["simple"]
    embeddings = encoder.class_embeddings(("cat", "fire hydrant"), templates)
    for name, embedding in zip(("cat", "fire hydrant"), embeddings, strict=True):
        mean = sum(F.normalize(encoder([t.replace("{}", name)])[0], dim=0) for t in templates)
        torch.testing.assert_close(embedding, mean / mean.norm(), rtol=0, atol=1e-5)
    with mistake("'cat'"):
        encoder.class_embeddings("cat", templates)


def test_long_texts_are_cut_with_one_warning(open_clip, clip_file, caplog):
    encoder = OpenClipTeacher.load("tiny-vit-quickgelu", clip_file).text
    whole = "word " * 26  # fills the context with its two ends
    with caplog.at_level(logging.WARNING):
        encoder(["short", whole])
        assert caplog.messages == []
        same = encoder([whole, whole + "more", whole + "of something else"])
        encoder([whole + "more"])
    assert len(caplog.messages) == 1 and "28 tokens" in caplog.text
    torch.testing.assert_close(same, same[:1].expand(3, -1))


def test_identity_holds_the_activation_the_weights_and_the_tokenizer(
    open_clip, tiny_clips, clip_file, tmp_path
):
    teacher = OpenClipTeacher.load("tiny-vit-quickgelu", clip_file)
    identity = teacher.identity().to_dict()
    assert json.loads(json.dumps(identity)) == identity
    assert (identity["library"], identity["name"]) == (
        "open_clip",
        "tiny-vit-quickgelu/vit.safetensors",
    )
    assert (identity["embed_dim"], identity["context_length"]) == (32, 28)
    assert identity["architecture"]["quick_gelu"] is True
    assert identity["weights_sha256"] == state_dict_sha256(
        {
            **{f"visual.{key}": value for key, value in teacher.visual.state_dict().items()},
            **teacher.text.state_dict(),
        }
    )
    gelu = OpenClipTeacher.load("tiny-vit", clip_file).identity().to_dict()
    assert gelu["weights_sha256"] == identity["weights_sha256"]
    assert gelu["architecture"] == {**identity["architecture"], "quick_gelu": False}
    state = {key: value.clone() for key, value in tiny_clips["vit"].state_dict().items()}
    state["ln_final.bias"][0] += 1
    save_file(state, tmp_path / "vit.safetensors")
    other = OpenClipTeacher.load("tiny-vit-quickgelu", tmp_path / "vit.safetensors")
    assert other.weights_sha256 != teacher.weights_sha256


def test_tokenizers_that_differ_in_cleaning_have_other_digests(teacher_of):
    digests = {name: teacher_of(name).text.tokenizer_digest() for name in ARCHITECTURES}
    assert digests["tiny-resnet"] == digests["tiny-mobileclip"] != digests["tiny-siglip"]
    assert digests["tiny-resnet"].startswith("clip-bpe-")


@pytest.mark.parametrize("kind", ["weights", "tokenizer", "format", "text"])
def test_a_changed_folder_is_refused(teacher_of, tmp_path, mistake, kind):
    teacher_of("tiny-resnet").save(tmp_path)
    teacher_of("tiny-resnet").text.save(tmp_path)
    if kind == "weights":
        path = tmp_path / "open_clip_model.safetensors"
        state = load_file(path)
        state["logit_scale"] += 1
        save_file(state, path)
        with mistake(path):
            OpenClipTeacher.open(tmp_path)
        return
    path = tmp_path / ("text_encoder.json" if kind == "text" else "open_clip_config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("digest", None)
    if kind == "format":
        config["format"] = 99
    else:
        config["tokenizer"] = "clip-bpe-0000000000000000"
    path.write_text(json.dumps(with_digest(config)), encoding="utf-8")
    open_folder = OpenClipTextEncoder.load if kind == "text" else OpenClipTeacher.open
    with mistake(tmp_path, "99" if kind == "format" else "clip-bpe-0000000000000000"):
        open_folder(tmp_path)


def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, mistake):
    for open_folder, file in (
        (OpenClipTeacher.open, "open_clip_config.json"),
        (OpenClipTextEncoder.load, "text_encoder.json"),
    ):
        for text in (None, "{", "[]", '{"format": 1}'):
            if text is not None:
                (tmp_path / file).write_text(text, encoding="utf-8")
            with mistake(tmp_path / file):
                open_folder(tmp_path)
