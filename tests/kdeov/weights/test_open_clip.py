"""Teachers of open_clip by name and by file: found with their preprocessing, or refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdeov.teachers.open_clip import OpenClipTeacher
from kdeov.weights.digests import with_digest
from kdeov.weights.open_clip import find_source, infer_preprocessing
from kdeov.weights.state_dict import read_state_dict


@pytest.mark.parametrize(
    ("architecture", "pretrained", "words"),
    [
        ("ViT-B-23", "openai", ("ViT-B-23", "ViT-B-32")),
        ("vit-b-32-quickgelu", "openai", ("ViT-B-32-quickgelu",)),
        ("hf-hub:someone/something", "openai", ("hf-hub:someone/something",)),
        ("ViT-B-16-SigLIP", "webly", ("'webly'", "near: webli", "its tags: webli")),
        ("ViT-B-32", "laion2b_s34b", ("near: laion2b_s34b_b79k", "datacomp_xl_s13b_b90k")),
        ("tiny-vit", "weights.pt", ("'weights.pt'", "no tags")),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", ("transformers",)),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(
    open_clip, mistake, architecture, pretrained, words
):
    with mistake(architecture, *words):
        OpenClipTeacher.load(architecture, pretrained)


def test_slashes_and_dashes_are_open_clips(open_clip):
    assert find_source("ViT-B/16-SigLIP", "webli").name == "ViT-B-16-SigLIP/webli"
    assert find_source("ViT-B-32", "datacomp-xl-s13b-b90k").tag is not None


@pytest.mark.parametrize(
    ("architecture", "pretrained", "trained", "cure"),
    [
        ("ViT-B-32", "openai", "QuickGELU", "ViT-B-32-quickgelu"),
        ("ViT-B-16", "dfn2b", "QuickGELU", "ViT-B-16-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "trained with GELU", "ViT-B-32"),
    ],
)
def test_a_tag_of_the_other_activation_is_refused(
    open_clip, mistake, architecture, pretrained, trained, cure
):
    with mistake(architecture, pretrained, trained, cure):
        OpenClipTeacher.load(architecture, pretrained)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_an_archive_of_openai_needs_quickgelu(
    open_clip, tiny_clips, openai_archive, clip_files, tmp_path, mistake, family
):
    openai_archive(tiny_clips[family]).save(tmp_path / "archive.pt")
    with mistake("archive.pt", "OpenAI", f"tiny-{family}-quickgelu"):
        OpenClipTeacher.load(f"tiny-{family}", tmp_path / "archive.pt")
    teacher = OpenClipTeacher.load(f"tiny-{family}-quickgelu", tmp_path / "archive.pt")
    plain = OpenClipTeacher.load(f"tiny-{family}-quickgelu", clip_files[family])
    assert teacher.weights_sha256 == plain.weights_sha256


def test_half_precision_of_unknown_origin_gives_a_warning(open_clip, clip_file, caplog):
    OpenClipTeacher.load("tiny-vit-quickgelu", clip_file)
    assert not caplog.records
    OpenClipTeacher.load("tiny-vit", clip_file)
    assert [line for line in caplog.messages if "QuickGELU" in line]


def test_a_file_named_after_a_tag_counts_as_that_tag(open_clip, clip_file, tmp_path, mistake):
    file = tmp_path / "laion2b_s32b_b82k.safetensors"
    file.symlink_to(clip_file)
    source = find_source("ViT-L-14", file)
    assert source.name == "ViT-L-14/laion2b_s32b_b82k.safetensors"
    preprocess = infer_preprocessing(source, load_file(file))
    assert list(preprocess["mean"]) == list(preprocess["std"]) == [0.5] * 3
    wrong = tmp_path / "openai.safetensors"
    wrong.symlink_to(clip_file)
    with mistake("ViT-B-32/openai.safetensors", "QuickGELU", "ViT-B-32-quickgelu"):
        find_source("ViT-B-32", wrong)


@pytest.mark.parametrize(
    ("architecture", "mean", "std", "interpolation"),
    [
        ("ViT-B-16-SigLIP", 0.5, 0.5, "bicubic"),
        ("MobileCLIP-S1", 0.0, 1.0, "bilinear"),
        ("PE-Core-B-16", 0.5, 0.5, "bilinear"),
        ("ViT-B-16-quickgelu", 0.48145466, 0.26862954, "bicubic"),
    ],
)
def test_a_plain_file_gets_the_preprocessing_of_all_tags_of_its_architecture(
    open_clip, clip_file, architecture, mean, std, interpolation
):
    preprocess = infer_preprocessing(find_source(architecture, clip_file), load_file(clip_file))
    found = preprocess["mean"][0], preprocess["std"][0], preprocess["interpolation"]
    assert found == (mean, std, interpolation)


def test_where_tags_differ_a_plain_file_needs_its_preprocessing_beside_it(
    open_clip, clip_file, tmp_path, mistake
):
    file = tmp_path / "mine.safetensors"
    file.symlink_to(clip_file)
    source = find_source("ViT-L-14", file)
    with mistake("mine.safetensors", "ViT-L-14", "open_clip_config.json"):
        infer_preprocessing(source, {})
    preprocess = {"mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "bilinear"}
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": preprocess}), encoding="utf-8")
    assert infer_preprocessing(source, {}) == {**preprocess, "resize_mode": "shortest"}
    config.write_text(
        json.dumps({"model_cfg": {"quick_gelu": True}, "preprocess_cfg": preprocess}),
        encoding="utf-8",
    )
    with mistake("mine.safetensors", "open_clip_config.json", "QuickGELU", "ViT-L-14-quickgelu"):
        infer_preprocessing(source, {})
    config.write_text("[]", encoding="utf-8")
    with mistake(config):
        infer_preprocessing(source, {})


def test_weights_of_another_model_are_refused_by_the_name_of_a_tensor(
    open_clip, clip_files, open_clip_models, tmp_path, mistake
):
    with mistake("tiny-resnet/vit.safetensors", "'visual."):
        OpenClipTeacher.load("tiny-resnet", clip_files["vit"])
    state = dict(open_clip_models("tiny-vit").state_dict())
    for name, change in {
        "shape": {"visual.conv1.weight": torch.zeros(64, 3, 8, 8)},
        "more": {"text_decoder_of_mine": torch.zeros(1)},
        "less": {"ln_final.bias": None},
    }.items():
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        save_file(changed, tmp_path / f"{name}.safetensors")
        key = next(iter(change))
        with mistake(f"tiny-vit/{name}.safetensors", key):
            OpenClipTeacher.load("tiny-vit", tmp_path / f"{name}.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with mistake("other.safetensors", "'logit_scale'"):
        OpenClipTeacher.load("tiny-vit", tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_cfg": {"image_size": [64, 96]}}, ("[64, 96]",)),
        ({"vision_cfg": {"timm_model_name": "hf-hub:a/b"}}, ("hf-hub:a/b",)),
        ({"vision_cfg": {"timm_model_name": "no_such_model"}}, ("no_such_model", "vision_cfg")),
        ({"text_cfg": {"widht": 64}}, ("widht", "text_cfg")),
        ({"text_cfg": {"vocab_size": 32000}}, ("32000", "hf_tokenizer_name")),
        ({"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "random"}}}, ("reduction_mask",)),
        ({"surprise": {}}, ("surprise",)),
    ],
)
def test_a_configuration_that_cannot_be_kept_is_refused(
    open_clip, clip_file, tmp_path, mistake, change, words
):
    """By files of `OpenClipTeacher.save`, through which any configuration may come in."""
    OpenClipTeacher.load("tiny-vit-quickgelu", clip_file).save(tmp_path)
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["digest"]
    for section, values in change.items():
        config["model_cfg"][section] = {**config["model_cfg"].get(section, {}), **values}
    path.write_text(json.dumps(with_digest(config)), encoding="utf-8")
    with mistake(*words):
        OpenClipTeacher.open(tmp_path)


def test_a_file_with_more_than_tensors_is_refused(open_clip, tmp_path, mistake):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickle.pt")
    with mistake("pickle.pt", "more than tensors"):
        OpenClipTeacher.load("tiny-vit", tmp_path / "pickle.pt")
    with mistake(tmp_path / "none.pt"):
        read_state_dict(tmp_path / "none.pt")


def test_the_log_names_the_activation_and_the_origin_of_the_preprocessing(
    open_clip, clip_file, caplog
):
    with caplog.at_level(logging.INFO, logger="kdeov"):
        OpenClipTeacher.load("tiny-vit-quickgelu", clip_file)
    assert [line for line in caplog.messages if "QuickGELU" in line and "mean" in line]
