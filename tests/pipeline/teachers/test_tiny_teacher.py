"""The offline stand-in for CLIP: the same every time, and a teacher like any other."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdeov.errors import DataError
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.runtime.device import cpu_threads
from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher

MakeParams = Callable[..., Params]


@pytest.fixture(scope="module")
def make_tiny(
    built: Layout, make_params: MakeParams, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains for a moment; returns the teacher's folder."""

    def make(**tiny: Any) -> Path:
        out = tmp_path_factory.mktemp("tiny") / "teacher"
        values = {"epochs": 1, "batch_size": 8, "embed_dim": 16, **tiny}
        params = make_params(teacher={"source": "tiny", "tiny": values})
        write_teacher(params.teacher, built.images, out)
        return out

    return make


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Path]) -> Path:
    return make_tiny()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training_again_gives_the_same_bytes_with_any_number_of_cpu_threads(
    tiny: Path, make_tiny: Callable[..., Path], threads: int
) -> None:
    with cpu_threads(threads):
        again = make_tiny()
        assert torch.get_num_threads() == threads  # as before
    for name in ("model.safetensors", "identity.json"):
        assert (tiny / name).read_bytes() == (again / name).read_bytes()


def test_another_seed_is_another_teacher(tiny: Path, make_tiny: Callable[..., Path]) -> None:
    other = load_teacher(make_tiny(seed=1))
    assert other.weights_sha256 != load_teacher(tiny).weights_sha256


def test_it_embeds_images_and_texts_into_one_space(tiny: Path) -> None:
    teacher = load_teacher(tiny)
    assert (teacher.name, teacher.embed_dim, teacher.transform.size) == ("tiny", 16, 64)
    images = teacher.encode_image(torch.zeros(2, 3, 64, 64))
    texts = teacher.encode_text(["a red circle", "a dog", "there is a star."])
    assert images.shape == (2, 16) and texts.shape == (3, 16)
    assert torch.isfinite(images).all() and torch.isfinite(texts).all()


def test_a_batch_larger_than_the_data_set_is_the_data_set(make_tiny: Callable[..., Path]) -> None:
    assert (make_tiny(batch_size=1000) / "model.safetensors").is_file()


def without_captions(images: Path, out: Path, keep: int) -> Path:
    """A copy of image shards of which only the first images keep their captions."""
    shutil.copytree(images, out)
    for path in sorted((out / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for member, data in members:
                if member.name.endswith(".json"):
                    keep -= 1
                    captions = json.loads(data)["captions"] if keep >= 0 else []
                    data = json.dumps({**json.loads(data), "captions": captions}).encode()
                    member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out


def test_images_without_captions_are_refused_in_one_line(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    images = without_captions(built.images, tmp_path / "images", keep=0)
    params = make_params(teacher={"source": "tiny", "tiny": {"epochs": 1, "embed_dim": 16}})
    with pytest.raises(DataError, match=r"train.*prepare\.templates"):
        write_teacher(params.teacher, images, tmp_path / "teacher")


def test_images_without_captions_are_left_out(
    built: Layout, make_params: MakeParams, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = without_captions(built.images, tmp_path / "images", keep=3)
    tiny = {"epochs": 1, "batch_size": 8, "embed_dim": 16}
    params = make_params(teacher={"source": "tiny", "tiny": tiny})
    write_teacher(params.teacher, images, tmp_path / "teacher")
    assert load_teacher(tmp_path / "teacher").embed_dim == 16
    assert "without a caption" in caplog.text
