"""Embeddings change only with EMBEDDING_VERSION: bytes that every machine must compute alike.

A network's results differ between kinds of CPU in their last bits. What is compared here does not:
the teacher selects integers (`tests.helpers.exact_teacher`), and images are not compressed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from kdeov.data.rendering import StoredImage, render
from kdeov.data.views import View, ViewPlan
from kdeov.weights.clip import import_clip
from pipeline.artifacts import identity
from pipeline.artifacts.identity import EMBEDDING_VERSION, cache_identity, read_teacher_identity
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.embedding.embed import embed
from pipeline.embedding.embedder import ShardEmbedder
from pipeline.embedding.table_embedder import TableEmbedder
from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.exact_teacher import CAPTIONS, DIM, ExactTeacher, ppm, write_exact_images
from tests.helpers.teacher_cache import ages

CHANGED = "embeddings changed: raise EMBEDDING_VERSION and these digests"
VERSION = 2  # the one that these digests are of

ALL_VIEWS = ViewPlan(6, seed=3, crop_scale_min=0.5, color_jitter=0.3, blur_prob=0.5)
SHARDS = {
    ("plain", "float32"): "cd2062d62a363f9f44050559981e34dbb1f8d8b29bc09b8c109e10f88bf59574",
    ("plain", "bfloat16"): "1e1d407fd9a1e58da0964df0417da3e06a7c18c26ec6d3e52076dfbb48e1ea11",
    ("views", "float32"): "9b62689f9ae2e13af97ea0f5ae22188909407942375a451faa035566a464a924",
    ("views", "bfloat16"): "5539b15341ca33172a741eadc6d8458ed598b30ba68e27fa73dd1970ba716a54",
    ("precomputed", "float16"): "cc0f967575ec001a79c73345df7b5042ce7ec99f489ab068d9be6906dc996591",
    (
        "precomputed",
        "no images",
    ): "9583946bb15f445609a58e0dd4ebbcbf5c47054b25f0047ffe4c6948e39fa243",
}
VIEWS = {
    "plain": (
        View(4, 0, 48, 48),
        "f5a76eeb085e5b6bf6b43df224edd6a75ff2108823b4f6fba412ad1001763ef5",
    ),
    "crop": (
        View(7, 3, 31, 40),
        "a5b63929ca413ae6807790f6b8e38ef642898f104bcdfd242cd7d5a099313dac",
    ),
    "flip": (
        View(4, 0, 48, 48, flip=1),
        "16f3618b09f1c454ba585286cbc4bf6efdc049b8cea81b123e9f6bc8291d83cd",
    ),
    "brightness": (
        View(4, 0, 48, 48, brightness=115),
        "c1af503ac9bb60613848e42fd97cef2c52e94ab00a1a75fea98faee5d02a5d35",
    ),
    "contrast": (
        View(4, 0, 48, 48, contrast=88),
        "16229dcfa41133cff48f8f212f4f6b64b67f2053660f17c8fab86095481e84b2",
    ),
    "saturation": (
        View(4, 0, 48, 48, saturation=130),
        "46a8377036ac14de50786835eb8810db9e53c6728e70bc8e9cebf892e77fadf6",
    ),
    "blur": (
        View(4, 0, 48, 48, blur=50),
        "d1f476a0f9058c8036e7257e8aed2e3f4e09a4bcb8d8c03f9975aa83293485a2",
    ),
}
TOKENS = "280f0b8ce9088432304c21ee8311c68841fc3743fc550e4af09a2df3184e309c"


@pytest.fixture
def images(tmp_path: Path) -> tuple[ShardFolder, Shard]:
    return write_exact_images(tmp_path / "images")


def shard_digest(folder: Path, samples: Iterable[dict[str, Any]]) -> str:
    return ShardFolder(folder, None).write("000000.tar", samples).sha256


def test_the_digests_are_of_the_version_that_caches_state() -> None:
    assert EMBEDDING_VERSION == VERSION, "these digests are of another EMBEDDING_VERSION"


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "plan"), [("plain", ViewPlan()), ("views", ALL_VIEWS)])
def test_a_teacher_with_towers_gives_the_bytes_of_this_version(
    images: tuple[ShardFolder, Shard],
    tmp_path: Path,
    name: str,
    plan: ViewPlan,
    precision: str,
    batch_size: int,
) -> None:
    embedder = ShardEmbedder(ExactTeacher(), plan, precision, batch_size)
    found = shard_digest(tmp_path, embedder.samples(*images, lambda _: None))
    assert found == SHARDS[name, precision], CHANGED


@pytest.mark.parametrize(("views", "name"), [(1, "float16"), (0, "no images")])
def test_embeddings_from_files_give_the_bytes_of_this_version(
    images: tuple[ShardFolder, Shard],
    make_params: Callable[..., Params],
    tmp_path: Path,
    views: int,
    name: str,
) -> None:
    rows = [(f"image-{number}", text) for number, texts in enumerate(CAPTIONS) for text in texts]
    table = {"key": [key for key, _ in rows], "caption": [text for _, text in rows]}
    parquet.write_table(pa.table(table), tmp_path / "metadata.parquet")
    numbers = np.arange(len(rows) * DIM).reshape(len(rows), DIM) * 37 % 509 / 16
    owners = [int(key[-1]) for key in table["key"]]  # an image's row comes with each caption
    np.save(tmp_path / "images.npy", numbers[owners].astype(np.float32))
    np.save(tmp_path / "captions.npy", numbers.astype(np.float32))
    embeddings = {
        "name": "exact", "images": "images.npy", "captions": "captions.npy",
        "metadata": "metadata.parquet", "match": "key", "key_column": "key", "prefix": "",
        "caption_column": "caption", "texts": [], "splits_without_embeddings": [],
    }  # fmt: skip
    section = {"source": "embeddings", "path": str(tmp_path), "embeddings": embeddings}
    write_teacher(make_params(teacher=section).teacher, tmp_path, tmp_path / "teacher")
    embedder = TableEmbedder(load_teacher(tmp_path / "teacher"), ViewPlan(views))  # type: ignore[arg-type]
    found = shard_digest(tmp_path, embedder.samples(*images, lambda _: None))
    assert found == SHARDS["precomputed", name], CHANGED


@pytest.mark.parametrize("kind", VIEWS)
def test_every_kind_of_view_shows_the_pixels_of_this_version(kind: str) -> None:
    view, digest = VIEWS[kind]
    pixels = render(StoredImage(ppm(0)), view, 32)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == digest, CHANGED


def test_the_views_of_the_shards_are_of_every_kind() -> None:
    views = [v for n in range(3) for v in ALL_VIEWS.draw_all(f"image-{n}", (56 + 8 * n, 48))]
    for kind in ("flip", "blur"):
        assert {bool(getattr(view, kind)) for view in views} == {True, False}
    for kind in ("left", "width", "brightness", "contrast", "saturation"):
        assert len({getattr(view, kind) for view in views}) > 3


def test_captions_have_the_tokens_of_this_version() -> None:
    texts = [text for texts in CAPTIONS for text in texts]
    tokens = import_clip().tokenize(texts, context_length=16, truncate=True)
    assert hashlib.sha256(tokens.numpy().astype("<i8").tobytes()).hexdigest() == TOKENS, CHANGED


@pytest.mark.slow
def test_a_comment_in_the_code_that_embeds_makes_no_shard_again(
    checkout: Layout, params: Params, run_python: Any
) -> None:
    for package in ("kdeov", "pipeline"):
        source = (checkout.root / package).resolve()
        (checkout.root / package).unlink()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, checkout.root / package, ignore=ignored)
    for name in ("kdeov/teachers/base.py", "kdeov/teachers/clip.py", "pipeline/embedding/embed.py"):
        path = checkout.root / name
        path.write_text(
            '"""Another docstring."""\n' + path.read_text(encoding="utf-8").split('"""', 2)[2],
            encoding="utf-8",
        )
    values = yaml.safe_dump(params.model_dump(mode="json"))
    (checkout.root / "params.yaml").write_text(values, encoding="utf-8")
    before = ages(checkout.embeddings)
    done = run_python("-m", "stages.embed", cwd=checkout.root, without=["PYTHONPATH"])
    assert done.returncode == 0 and "keeping 3 of 3" in done.stderr, done.stderr
    assert ages(checkout.embeddings) == before


def test_a_raised_version_refuses_the_cache_and_embeds_every_shard_again(
    checkout: Layout, params: Params, log: Any, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ages(checkout.embeddings)
    monkeypatch.setattr(identity, "EMBEDDING_VERSION", EMBEDDING_VERSION + 1)
    words = f"version is {EMBEDDING_VERSION}, wanted {EMBEDDING_VERSION + 1}"
    with complains(words, "dvc repro embed"):
        open_cache(params, checkout, "train")
    embed(params, checkout)
    after = ages(checkout.embeddings)
    assert all(after[name] != before[name] for name in before) and words in log.text
    teacher = read_teacher_identity(checkout.teacher)
    assert cache_identity(teacher, params.embed, "train")["version"] == EMBEDDING_VERSION + 1
    open_cache(params, checkout, "train")
