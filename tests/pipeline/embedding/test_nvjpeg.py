"""Images that a GPU decodes: the crops of the CPU's way, and errors that name the image.

The crops run here on a CPU, with libjpeg; `tests/gpu` has nvJPEG.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from kdeov.data.rendering import StoredImage, crop
from kdeov.data.views import ViewPlan
from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.bench.fixtures import photographs
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.embedding.nvjpeg import decoded_views
from tests.helpers.teacher_cache import MakeParams, run

SIZE = 96  # at which no image below is decoded at a reduced scale
KEYS = ("a", "b", "c")


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return list(islice(photographs(3, size=(160, 120)), 3))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_the_cpu_within_two_levels(
    jpegs: list[bytes], interpolation: str
) -> None:
    plan = ViewPlan(6)
    views = [plan.draw_all(key, (160, 120)) for key in KEYS]
    assert {view.flip for drawn in views for view in drawn} == {0, 1}
    found = decoded_views(KEYS, jpegs, views, SIZE, "cpu", interpolation)
    expected = torch.stack(
        [
            crop(StoredImage(jpeg), view, SIZE, interpolation)
            for jpeg, drawn in zip(jpegs, views, strict=True)
            for view in drawn
        ]
    )
    assert found.dtype == torch.uint8 and found.shape == expected.shape == (18, 3, SIZE, SIZE)
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 2 and difference.float().mean() < 0.2


def test_a_damaged_image_is_named(jpegs: list[bytes], complains: Any) -> None:
    views = [ViewPlan(1).draw_all(key, (160, 120)) for key in KEYS]
    damaged = [jpegs[0], jpegs[1][:40], jpegs[2]]
    with complains("b: ", "embed.decoder"):
        decoded_views(KEYS, damaged, views, SIZE, "cpu")


def test_a_decoder_that_decodes_nothing_is_not_blamed_on_an_image(
    jpegs: list[bytes], complains: Any
) -> None:
    with complains("nvJPEG decodes no image", "embed.decoder"):
        decoded_views(KEYS, [b"no"] * 3, [[]] * 3, SIZE, "cpu")


def test_memory_that_runs_out_is_not_blamed_on_an_image(
    jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torchvision.io.decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        decoded_views(KEYS, jpegs, [[]] * 3, SIZE, "cpu")


def test_a_filter_that_gpus_lack_is_refused(jpegs: list[bytes], complains: Any) -> None:
    with complains("embed.decoder", "lanczos"):
        decoded_views(KEYS, jpegs, [[]] * 3, SIZE, "cpu", "lanczos")


def test_the_identity_of_a_cache_says_that_a_gpu_decoded(
    built: Layout, params: Params, make_params: MakeParams
) -> None:
    teacher = read_teacher_identity(built.teacher)
    plain = cache_identity(teacher, params.embed, "train")
    gpu = cache_identity(teacher, make_params(embed={"decoder": "nvjpeg"}).embed, "train")
    assert gpu == plain | {"decoder": "nvjpeg"} and "decoder" not in plain


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_is_refused_before_any_shard(
    built: Layout, make_params: MakeParams, tmp_path: Path, complains: Any
) -> None:
    with complains("embed.decoder", "set it to cpu"):
        run(make_params(embed={"decoder": "nvjpeg"}), built, tmp_path)
    assert not list(tmp_path.rglob("*.tar"))
