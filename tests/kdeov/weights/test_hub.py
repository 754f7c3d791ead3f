"""Downloads of open_clip's weights: logged before, checked after, one line without a network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kdeov.teachers.open_clip import OpenClipTeacher

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


def test_without_transformers_the_error_comes_before_any_download(monkeypatch, tmp_path, mistake):
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
        [sys.executable, "-c", LOADS, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
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
    # the second time, the cache is enough
    assert "LOADED" not in out and "ViT-B-32-quickgelu/openai" in out
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
