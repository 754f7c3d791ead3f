"""Teachers of open_clip by name and by file: what is found, fetched, and refused."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdeov.teachers.open_clip import OpenClipTeacher
from kdeov.weights.open_clip import find_source, infer_preprocessing
from kdeov.weights.state_dict import read_state_dict

LOADS = (
    "import logging, sys\n"
    "from kdeov import KdeovError\n"
    "from kdeov.teachers.open_clip import OpenClipTeacher\n"
    "logging.basicConfig(level=logging.INFO, format='LOG %(message)s')\n"
    "try:\n"
    "    teacher = OpenClipTeacher.load(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3])\n"
    "except KdeovError as error:\n"
    "    print('ERROR', error)\n"
    "else:\n"
    "    print('LOADED', teacher.name)\n"
)


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
def test_an_unknown_name_is_answered_with_near_ones(open_clip, mistake, architecture, pretrained, words):
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
    config.write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": preprocess}))
    assert infer_preprocessing(source, {}) == {**preprocess, "resize_mode": "shortest"}
    config.write_text(
        json.dumps({"model_cfg": {"quick_gelu": True}, "preprocess_cfg": preprocess})
    )
    with mistake("mine.safetensors", "open_clip_config.json", "QuickGELU", "ViT-L-14-quickgelu"):
        infer_preprocessing(source, {})
    config.write_text("[]")
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
    with mistake("other.safetensors", "'text."):
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
    config = json.loads(path.read_text())
    for section, values in change.items():
        config["model_cfg"][section] = {**config["model_cfg"].get(section, {}), **values}
    path.write_text(json.dumps(config))
    with mistake(*words):
        OpenClipTeacher.open(tmp_path)


def test_without_transformers_the_error_comes_before_any_download(
    monkeypatch, tmp_path, mistake
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with mistake("ViT-B-16-SigLIP/webli", "pip install 'kdeov[hf]'"):
        OpenClipTeacher.load("ViT-B-16-SigLIP", "webli", cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_in_the_hubs_offline_mode_the_address_and_the_file_are_named(
    monkeypatch, tmp_path, mistake
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for tag, suffix in (("openai", ".safetensors"), ("metaclip_400m", ".safetensors")):
        with mistake(
            f"ViT-B-32-quickgelu/{tag}", tmp_path, "open_clip_model.safetensors", "offline",
            f"name it {tag}{suffix} and set `pretrained` to its path",
        ):  # fmt: skip
            OpenClipTeacher.load("ViT-B-32-quickgelu", tag, cache_dir=tmp_path)


def run_apart(monkeypatch, endpoint, *arguments):
    """Another process, for the hub's client reads its endpoint once."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    done = subprocess.run(
        [sys.executable, "-c", LOADS, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_an_unreachable_hub_is_reported_at_once(monkeypatch, tmp_path):
    out, log = run_apart(
        monkeypatch, "http://127.0.0.1:9", "ViT-B-32-quickgelu", "openai", tmp_path
    )
    assert out.startswith("ERROR ViT-B-32-quickgelu/openai: http://127.0.0.1:9/timm/")
    assert len(out.splitlines()) == 1
    assert "refused" in out
    assert "Retry" not in log  # the hub's own client retries for 23 s


class Hub(BaseHTTPRequestHandler):
    """A hub with one file in every repository, of which it announces the sha256."""

    content = b""
    digest = ""

    def do_HEAD(self):
        found = self.path.endswith("/open_clip_model.safetensors")
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{self.digest}"')
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("intact", [True, False])
def test_a_download_is_logged_before_and_checked_after(
    open_clip, clip_file, hub, monkeypatch, tmp_path, intact
):
    Hub.content = clip_file.read_bytes()
    Hub.digest = hashlib.sha256(Hub.content).hexdigest() if intact else "0" * 64
    # the weights are a tiny model's, so loading ends where they are compared with ViT-B-32
    arguments = "ViT-B-32-quickgelu", "openai", tmp_path
    out, log = run_apart(monkeypatch, hub, *arguments)
    assert f"downloads {hub}/timm/vit_base_patch32_clip_224.openai/resolve/main/" in log
    assert f"sha256 {Hub.digest}) into {tmp_path}" in log
    if not intact:
        assert hashlib.sha256(Hub.content).hexdigest() in out
        return
    assert f"open_clip_model.safetensors: sha256 {Hub.digest}" in log
    assert "LOADED" not in out and "ViT-B-32-quickgelu/openai" in out
    out, log = run_apart(monkeypatch, "http://127.0.0.1:9", *arguments)
    assert "LOADED" not in out and "ViT-B-32-quickgelu/openai" in out  # the second time, the cache is enough
    assert "downloads" not in log


@pytest.mark.parametrize("intact", [True, False])
def test_addresses_outside_the_hub_are_checked_by_open_clip(
    open_clip, clip_file, monkeypatch, tmp_path, mistake, intact
):
    digest = hashlib.sha256(clip_file.read_bytes()).hexdigest() if intact else "0" * 64
    place = tmp_path / "mlfoundations" / f"tiny-{digest[:8]}.safetensors"  # names its sha256
    place.parent.mkdir()
    place.write_bytes(clip_file.read_bytes())
    tag = {"url": place.as_uri(), "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_names: tag)
    if intact:
        teacher = OpenClipTeacher.load("tiny-vit-quickgelu", "mine", cache_dir=tmp_path / "cache")
        assert teacher.name == "tiny-vit-quickgelu/mine"
    else:
        with mistake("tiny-vit-quickgelu/mine", place.as_uri(), "SHA256"):
            OpenClipTeacher.load("tiny-vit-quickgelu", "mine", cache_dir=tmp_path / "cache")


def test_a_file_with_more_than_tensors_is_refused(open_clip, tmp_path, mistake):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickle.pt")
    with mistake("pickle.pt", "more than tensors"):
        OpenClipTeacher.load("tiny-vit", tmp_path / "pickle.pt")
    with mistake(tmp_path / "none.pt"):
        read_state_dict(tmp_path / "none.pt")


def test_the_log_names_the_activation_and_the_origin_of_the_preprocessing(open_clip, clip_file, caplog):
    with caplog.at_level(logging.INFO, logger="kdeov"):
        OpenClipTeacher.load("tiny-vit-quickgelu", clip_file)
    assert [line for line in caplog.messages if "QuickGELU" in line and "mean" in line]
