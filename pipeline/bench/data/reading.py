"""Reading teacher shards, against the format of a published reinforced data set."""

from __future__ import annotations

import gzip
import io
import statistics
import tarfile
from itertools import repeat
from pathlib import Path

import torch

from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import write_embeddings, write_images
from pipeline.bench.sizes import BenchSizes
from pipeline.data.paired_shards import PairedShards
from pipeline.evaluation.shared.timing import interleaved, median_ratio

VIEWS, CAPTIONS = 11, 5
EMBEDDINGS = VIEWS + CAPTIONS


def reading_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `teacher_read_samples_per_s`, `teacher_read_against_pth_gz`, `bytes_per_embedding`.

    Samples are read as training does, in step with their image shard, with checksums; images have
    a few bytes, so that the cache alone is timed. DataCompDR (Faghri et al.,
    2023, arXiv:2303.08983) stores a sample as `KEY.pth.gz`: bfloat16 tensors, pickled and gzipped.

    Args:
        folder: Folder of shards.
        sizes: Sizes of the measurements.
    """
    images, embeddings = folder / "images" / "train", folder / "embeddings" / "train"
    write_images(images, repeat(b"none"), sizes.read_samples, CAPTIONS)
    identity = write_embeddings(images, embeddings, VIEWS, CAPTIONS, sizes.dim)
    shards = PairedShards(images, embeddings, identity)
    archive = folder / "pth_gz.tar"
    _write_pth_gz(archive, shards)
    times = interleaved(
        {"ours": lambda: _exhaust(shards), "theirs": lambda: _read_pth_gz(archive)}, sizes.repeats
    )
    size = sum(shard.bytes for shard in shards.cache.shards)
    return [
        Figure(
            "teacher_read_samples_per_s",
            sizes.read_samples / statistics.median(times["ours"]),
            4000,
            f"{EMBEDDINGS} embeddings each, with checksums, one core",
        ),
        Figure(
            "teacher_read_against_pth_gz",
            median_ratio(times["theirs"], times["ours"]),
            2,
            "times the rate of DataCompDR's format",
        ),
        Figure(
            "bytes_per_embedding",
            size / (sizes.read_samples * EMBEDDINGS),
            1300,
            f"stored, of {sizes.dim} dimensions, {EMBEDDINGS} a sample",
            at_most=True,
        ),
    ]


def _exhaust(shards: PairedShards) -> None:
    for _ in shards:
        pass


def _write_pth_gz(path: Path, shards: PairedShards) -> None:
    with tarfile.open(path, "w") as tar:
        for sample in shards:
            tensors = {
                "image_emb": torch.tensor(sample.view_embeddings).bfloat16(),
                "text_emb": torch.tensor(sample.text_embeddings).bfloat16(),
            }
            file = io.BytesIO()
            torch.save(tensors, file)
            data = gzip.compress(file.getvalue())
            member = tarfile.TarInfo(f"{sample.key}.pth.gz")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _read_pth_gz(path: Path) -> None:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                torch.load(io.BytesIO(gzip.decompress(file.read())), weights_only=True)
