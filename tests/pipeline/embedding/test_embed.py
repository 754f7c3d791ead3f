"""Cached embeddings are the teacher's, of exactly the views and captions of each image."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdeov.data.rendering import StoredImage, render
from kdeov.weights.state_dict import read_state_dict, write_tensors
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import (
    read_teacher_identity,
    view_plan,
)
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shards import read_shard
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards
from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.teacher_cache import MakeParams, files, paired, run, tokens
from tests.helpers.teachers import clip_file


@pytest.mark.parametrize(("split", "views"), [("train", 3), ("val", 1), ("test", 1)])
def test_every_view_and_caption_has_a_unit_embedding(
    built: Layout, params: Params, split: str, views: int
) -> None:
    samples = list(paired(built, params, split))
    assert len(samples) == {"train": 24, "val": 12, "test": 12}[split]
    for sample in samples:
        assert sample.view_embeddings.shape == (views, 32) and len(sample.views) == views
        assert sample.text_embeddings.shape == (3, 32) and len(sample.captions) == 3
        assert np.linalg.norm(tokens(sample), axis=1) == pytest.approx(1, abs=1e-3)


def test_cached_embeddings_are_the_live_teacher_on_the_very_views_and_captions(
    built: Layout, params: Params
) -> None:
    teacher = load_teacher(built.teacher)
    samples = list(paired(built, params))
    views = [view for sample in samples for view in sample.views]
    assert any(view.flip for view in views) and any(view.width < 96 for view in views)
    pixels = torch.stack(
        [
            render(StoredImage(s.jpeg), view, teacher.transform.size)
            for s in samples
            for view in s.views
        ]
    )
    images = teacher.transform.normalize(pixels)
    live = F.normalize(teacher.encode_image(images), dim=-1)
    cached = torch.from_numpy(np.concatenate([s.view_embeddings for s in samples])).float()
    cosines = cached @ live.T
    assert cosines.diagonal().min() >= 0.9995
    others = cosines - 2 * torch.eye(len(cosines))
    assert (others.max(dim=1).values < 0.9995).float().mean() > 0.9  # one can tell them apart
    texts = F.normalize(teacher.encode_text([c for s in samples for c in s.captions]), dim=-1)
    stored = torch.from_numpy(np.concatenate([s.text_embeddings for s in samples])).float()
    assert (stored * texts).sum(dim=-1).min() >= 0.9995


def test_views_of_an_image_are_drawn_the_same_way_everywhere(built: Layout, params: Params) -> None:
    plan = view_plan(read_teacher_identity(built.teacher), params.embed, "train")
    for sample in paired(built, params):
        size = Image.open(io.BytesIO(sample.jpeg)).size
        assert sample.views == plan.draw_all(sample.key, size)


def test_embedding_twice_gives_the_same_bytes(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    run(params, built, tmp_path / "again")
    assert files(tmp_path / "again") == files(built.embeddings)


def damaged_image(layout: Layout) -> Path:
    """An image shard in which the first image is no JPEG any more."""
    path = layout.images / "val" / "000001.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\xd8\xff", b"\0\0\0", 1))
    return path


def test_damaged_image_shards_are_named_and_not_embedded(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = damaged_image(checkout)
    shutil.rmtree(checkout.embeddings)
    with complains(path, "dvc repro"):
        run(params, checkout)
    assert not (checkout.embeddings / "val" / "manifest.json").exists()


def test_a_flipped_bit_in_an_image_is_never_embedded(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = checkout.images / "val" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[1500] ^= 1  # within the first image, which still decodes
    path.write_bytes(data)
    shutil.rmtree(checkout.embeddings)
    with complains(path):
        run(params, checkout)


def test_embeddings_that_are_no_numbers_are_refused(
    checkout: Layout, make_params: MakeParams, params: Params, tmp_path: Path, complains: Any
) -> None:
    state = read_state_dict(checkout.teacher / "model.safetensors")
    state["visual.attnpool.c_proj.bias"] += float("nan")
    write_tensors(tmp_path / "broken.safetensors", state)
    broken = make_params(teacher=clip_file(tmp_path / "broken.safetensors"))
    write_teacher(broken.teacher, checkout.images, checkout.teacher)
    with complains("train-0000000 are not finite", "check the weights"):
        run(params, checkout)
    assert not any((checkout.embeddings / split / "manifest.json").exists() for split in ["train"])


def test_a_lower_precision_gives_nearly_the_same_embeddings_and_is_stated(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    low = make_params(embed={"precision": "bfloat16"})
    run(low, built, tmp_path / "low")
    manifest = Manifest.read(tmp_path / "low" / "val")
    assert manifest.identity["precision"] == "bfloat16"
    shards = PairedShards(built.images / "val", tmp_path / "low" / "val", manifest.identity)
    for one, two in zip(shards, paired(built, make_params(), "val"), strict=True):
        cosines = (tokens(one) * tokens(two)).sum(axis=1)
        assert cosines.min() > 0.99 and not np.array_equal(tokens(one), tokens(two))


@pytest.mark.parametrize("batch", [1, 7])
def test_how_many_views_are_embedded_at_once_changes_no_embedding(
    built: Layout, make_params: MakeParams, tmp_path: Path, batch: int
) -> None:
    run(make_params(cluster={"embed_batch": batch}), built, tmp_path / "out")
    for split in SPLITS:
        for tar in (built.embeddings / split).glob("*.tar"):
            for (_, one), (_, two) in zip(
                read_shard(tar), read_shard(tmp_path / "out" / split / tar.name), strict=True
            ):
                ours, theirs = (np.frombuffer(s["fp16"], "<f2").astype(float) for s in (one, two))
                assert np.abs(ours - theirs).max() < 1e-3 and one["views"] == two["views"]
