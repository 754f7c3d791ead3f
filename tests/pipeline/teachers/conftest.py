"""Images with captions, and files of embeddings of them in clip-retrieval's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.helpers.teachers import DIM, NUM_IMAGES


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with two captions each."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "images").mkdir()
    rows = ["image,caption"]
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
        rows += [f"{number}.jpg,image {number}", f"{number}.jpg,number {number}"]
    (folder / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def embeddings() -> dict[str, np.ndarray]:
    """Of the images and of their captions, of any length."""
    rng = np.random.default_rng(1)
    return {
        "images": rng.normal(size=(2 * NUM_IMAGES, DIM)).astype(np.float32),
        "captions": rng.normal(size=(2 * NUM_IMAGES, DIM)).astype(np.float16),
    }


@pytest.fixture
def retrieval_layout(tmp_path: Path, embeddings: dict[str, np.ndarray]) -> Path:
    """What clip-retrieval writes: a row a caption, so each image's embedding comes twice; in eleven
    parts, so that `10` must come after `2`.
    """
    folder = tmp_path / "clip-retrieval"
    folder.mkdir()
    embeddings["images"][1::2] = embeddings["images"][::2]
    rows = np.array_split(np.arange(2 * NUM_IMAGES), 11)
    for part, chosen in enumerate(rows):
        np.save(folder / f"img_emb_{part}.npy", embeddings["images"][chosen])
        np.save(folder / f"text_emb_{part}.npy", embeddings["captions"][chosen])
        names = [("image", "number")[row % 2] for row in chosen]
        table = {
            "image_path": [f"/elsewhere/images/{row // 2}.jpg" for row in chosen],
            "caption": [f"{n} {row // 2}" for n, row in zip(names, chosen, strict=True)],
        }
        parquet.write_table(pa.table(table), folder / f"metadata_{part}.parquet")
    return folder
