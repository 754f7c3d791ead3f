"""CLIP weights by name or by path."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request

import pytest
import torch
from safetensors.torch import save_file

from kdeov import ClipTeacher, FrozenCLIPTextEncoder
from kdeov.weights.clip import load_clip_state_dict
from kdeov.weights.compat import model_urls
from kdeov.weights.state_dict import state_dict_sha256


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_every_file_type_gives_the_same_weights(tiny_clips, openai_archive, tmp_path, family):
    model = tiny_clips[family]
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    openai_archive(model).save(tmp_path / "archive.pt")
    digests = {
        path.name: state_dict_sha256(load_clip_state_dict(path)) for path in tmp_path.iterdir()
    }
    assert digests == dict.fromkeys(
        ("clip.safetensors", "clip.pt", "archive.pt"), state_dict_sha256(model.state_dict())
    )


def test_an_unknown_name_is_answered_with_the_known_ones(clip, mistake):
    with mistake("ViT-Z/99", *clip.available_models()):
        load_clip_state_dict("ViT-Z/99")


def test_weights_of_something_else_are_refused(tmp_path, mistake):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with mistake(tmp_path / "other.safetensors", "text_projection"):
        load_clip_state_dict(tmp_path / "other.safetensors")


@pytest.mark.parametrize("build", [ClipTeacher.load, FrozenCLIPTextEncoder])
@pytest.mark.parametrize("lost", ["logit_scale", "transformer.resblocks"])
def test_half_a_clip_is_refused_in_one_line(tiny_clips, tmp_path, mistake, build, lost):
    state = tiny_clips["vit"].state_dict()
    path = tmp_path / "half.safetensors"
    save_file({name: value for name, value in state.items() if not name.startswith(lost)}, path)
    with mistake("half.safetensors"):
        build(path)


def test_a_teacher_without_an_image_tower_is_refused_in_one_line(tiny_clips, tmp_path, mistake):
    state = tiny_clips["vit"].state_dict()
    path = tmp_path / "blind.safetensors"
    save_file({name: v for name, v in state.items() if not name.startswith("visual.")}, path)
    assert FrozenCLIPTextEncoder(path).embed_dim == 32
    with mistake("blind.safetensors"):
        ClipTeacher.load(path)


def test_without_a_network_the_address_and_the_place_are_named(
    clip, tmp_path, monkeypatch, mistake
):
    def unreachable(*_args, **_options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    place = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    for build in (load_clip_state_dict, FrozenCLIPTextEncoder, ClipTeacher.load):
        with mistake("ViT-B/32", place, "no route to host", model_urls(clip)["ViT-B/32"]):
            build("ViT-B/32")
    assert not place.exists()


@pytest.mark.parametrize("intact", [True, False])
def test_a_download_is_checked_by_sha256(clip, clip_file, tmp_path, monkeypatch, mistake, intact):
    digest = hashlib.sha256(clip_file.read_bytes()).hexdigest()
    source = tmp_path / (digest if intact else "0" * 64) / "tiny.safetensors"
    source.parent.mkdir()
    source.write_bytes(clip_file.read_bytes())
    monkeypatch.setattr("kdeov.weights.clip.model_urls", lambda _clip: {"tiny": source.as_uri()})
    if intact:
        fetched = load_clip_state_dict("tiny", cache=tmp_path / "cache")
        source.unlink()  # the second time, the cache is enough
        again = load_clip_state_dict("tiny", cache=tmp_path / "cache")
        assert state_dict_sha256(fetched) == state_dict_sha256(again)
        assert state_dict_sha256(fetched) == state_dict_sha256(load_clip_state_dict(clip_file))
    else:
        with mistake("tiny", source.as_uri(), "SHA256"):
            load_clip_state_dict("tiny", cache=tmp_path / "cache")
