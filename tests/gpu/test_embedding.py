"""Embedding on a GPU gives the embeddings of a CPU, up to its precision."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeov.data.views import View
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import read_shard
from pipeline.bench.fixtures import photographs, write_images, write_teacher
from pipeline.bench.sizes import Precision, embed_params
from pipeline.data.verify import MIN_COSINE_NVJPEG
from pipeline.embedding.nvjpeg import decoded_views
from pipeline.embedding.worker import EmbedConfig, EmbedWorker, ShardTask

TEACHER = (64, 64, 2, 128, 32, 77, 49408, 64, 1, 1)
COUNT, VIEWS, CAPTIONS = 10, 4, 2


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    write_teacher(folder / "teacher", TEACHER)
    images = photographs(8, size=(160, 120))
    write_images(folder / "images" / "train", images, COUNT, CAPTIONS)
    return folder


def embedded(
    folder: Path, out: Path, device: str, precision: Precision, decoder: str = "cpu"
) -> np.ndarray:
    """The cached embeddings [images, views + captions, D]."""
    images = ShardFolder(folder / "images" / "train")
    params = embed_params(VIEWS, precision).model_copy(update={"decoder": decoder})
    worker = EmbedWorker(EmbedConfig(params, folder / "teacher", device == "cuda", "auto", None))
    shard = worker.run(
        ShardTask("train", images, images.manifest().shards[0], ShardFolder(out)),
        lambda name, done: None,
    )
    blocks = [sample["fp16"] for _, sample in read_shard(out / shard.name)]
    rows = np.stack([np.frombuffer(block, "<f2") for block in blocks])
    embeddings = rows.reshape(len(blocks), VIEWS + CAPTIONS, -1).astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


@pytest.mark.parametrize(("precision", "floor"), [("float32", 0.99999), ("bfloat16", 0.99)])
def test_a_shard_has_the_embeddings_of_a_cpu(
    device: str, fixtures: Path, tmp_path: Path, precision: Precision, floor: float
) -> None:
    expected = embedded(fixtures, tmp_path / "cpu", "cpu", "float32")
    found = embedded(fixtures, tmp_path / "device", device, precision)
    cosines = (found * expected).sum(-1)
    assert found.shape == expected.shape == (COUNT, VIEWS + CAPTIONS, TEACHER[0])
    assert cosines.min() > floor


def test_images_that_the_gpu_decodes_have_nearly_the_same_embeddings(
    cuda: str, fixtures: Path, tmp_path: Path
) -> None:
    expected = embedded(fixtures, tmp_path / "cpu", "cpu", "float32")
    found = embedded(fixtures, tmp_path / "gpu", cuda, "float32", "nvjpeg")
    cosines = (found * expected).sum(-1)
    assert cosines[:, :VIEWS].min() > MIN_COSINE_NVJPEG
    assert cosines[:, VIEWS:].min() > 0.99999  # captions


def test_images_that_the_gpu_decodes_in_many_chunks_do_not_overwrite_each_other(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder gets memory that was freed while kernels still wait to read it."""
    jpegs = list(islice(photographs(64, size=(640, 480)), 64))
    keys, views = [str(n) for n in range(64)], [[View(0, 0, 600, 440)]] * 64
    expected = torch.cat(
        [
            decoded_views([k], [j], [v], 224, cuda)
            for k, j, v in zip(keys, jpegs, views, strict=True)
        ]
    )
    monkeypatch.setattr("pipeline.embedding.nvjpeg.CHUNK", 8)
    busy = torch.randn(4096, 4096, device=cuda)
    for _ in range(5):
        for _ in range(20):
            busy = torch.tanh(busy @ busy)  # crops wait behind it
        assert torch.equal(decoded_views(keys, jpegs, views, 224, cuda), expected)
