"""Teachers whose vectors someone has computed: clip-retrieval's layout, single files, and what is
wrong with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards
from pipeline.data.verify import verify_cache
from pipeline.embedding.embed import embed
from pipeline.prepare.prepare import prepare
from pipeline.teachers.embedding_files import numbered_files, read_vectors
from pipeline.teachers.load import load_teacher, load_towers
from pipeline.teachers.make_teacher import make_teacher, write_teacher
from pipeline.teachers.precomputed import PrecomputedTeacher

DIM = 16
IMAGES = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with two captions each."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "images").mkdir()
    rows = ["image,caption"]
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
        rows += [f"{number}.jpg,image {number}", f"{number}.jpg,number {number}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    """Of the images and of their captions, of any length."""
    rng = np.random.default_rng(1)
    return {
        "images": rng.normal(size=(2 * IMAGES, DIM)).astype(np.float32),
        "captions": rng.normal(size=(2 * IMAGES, DIM)).astype(np.float16),
    }


@pytest.fixture
def retrieval_layout(tmp_path: Path, vectors: dict[str, np.ndarray]) -> Path:
    """What clip-retrieval writes: a row a caption, so each image's vector comes twice; in eleven
    parts, so that `10` must come after `2`.
    """
    folder = tmp_path / "clip-retrieval"
    folder.mkdir()
    vectors["images"][1::2] = vectors["images"][::2]
    rows = np.array_split(np.arange(2 * IMAGES), 11)
    for part, chosen in enumerate(rows):
        np.save(folder / f"img_emb_{part}.npy", vectors["images"][chosen])
        np.save(folder / f"text_emb_{part}.npy", vectors["captions"][chosen])
        names = [("image", "number")[row % 2] for row in chosen]
        table = {
            "image_path": [f"/elsewhere/images/{row // 2}.jpg" for row in chosen],
            "caption": [f"{n} {row // 2}" for n, row in zip(names, chosen, strict=True)],
        }
        parquet.write_table(pa.table(table), folder / f"metadata_{part}.parquet")
    return folder


def of_layout(folder: Path, **changes: Any) -> dict[str, Any]:
    embeddings = {
        "name": "ViT-B/32", "images": "img_emb_*.npy", "captions": "text_emb_*.npy",
        "metadata": "metadata_*.parquet", "match": "source", "key_column": "image_path",
        "prefix": "/elsewhere/images/", "caption_column": "caption", "texts": [], "splits_without_embeddings": [],
    }  # fmt: skip
    return {
        "source": "embeddings", "path": str(folder), "embeddings": {**embeddings, **changes},
    }  # fmt: skip


def of_rows(folder: Path, **changes: Any) -> dict[str, Any]:
    alone = {"captions": None, "metadata": None, "match": "row", "key_column": None}
    alone["prefix"] = "test_x/"
    return of_layout(folder, **alone, **changes)


@pytest.fixture
def embedded(
    make_params: Callable[..., Params], images: Path, tmp_path: Path
) -> Callable[..., tuple[Layout, Params]]:
    """Runs `prepare`, `teacher` and `embed` on the images with a teacher."""

    def run(teacher: dict[str, Any], views: int = 1) -> tuple[Layout, Params]:
        source = {"images": "images", "table": "captions.csv", "image_column": "image"}
        columns = {"caption_column": "caption", "label_column": None, "val": 0.2, "test": 0.2}
        params = make_params(
            prepare={
                "source": "captions_csv", "path": str(images), "dataset": "numbers",
                "captions_csv": {**source, **columns},
            },
            teacher=teacher,
            embed={"views": views},
        )  # fmt: skip
        layout = Layout(tmp_path / "checkout")
        prepare(params, layout)
        make_teacher(params, layout)
        embed(params, layout)
        return layout, params

    return run


def opened(layout: Layout, params: Params, split: str) -> PairedShards:
    identity = cache_identity(read_teacher_identity(layout.teacher), params.embed, split)
    return PairedShards(layout.images / split, layout.embeddings / split, identity)


def unit(row: np.ndarray) -> np.ndarray:
    return row.astype(np.float32) / np.linalg.norm(row.astype(np.float32))


def test_each_image_and_caption_gets_the_vector_that_clip_retrieval_gave_it(
    embedded: Any, retrieval_layout: Path, vectors: dict[str, np.ndarray]
) -> None:
    layout, params = embedded(of_layout(retrieval_layout))
    seen = 0
    for split in ("train", "val", "test"):
        for sample in opened(layout, params, split):
            number = int(sample.source.removesuffix(".jpg"))
            wanted = unit(vectors["images"][2 * number])
            np.testing.assert_allclose(sample.view_embeddings[0], wanted, atol=1e-3)
            for caption, vector in zip(sample.captions, sample.text_embeddings, strict=True):
                row = 2 * number + caption.startswith("number")
                np.testing.assert_allclose(vector, unit(vectors["captions"][row]), atol=1e-3)
                seen += 1
    assert seen == 2 * IMAGES


def test_the_cache_of_given_vectors_proves_itself(embedded: Any, retrieval_layout: Path) -> None:
    layout, params = embedded(of_layout(retrieval_layout))
    teacher = load_teacher(layout.teacher)
    assert verify_cache(opened(layout, params, "train"), teacher, 8, whole=True) > 0.9999


def test_without_captions_images_alone_are_cached(embedded: Any, retrieval_layout: Path) -> None:
    layout, params = embedded(of_layout(retrieval_layout, captions=None))
    samples = list(opened(layout, params, "train"))
    assert all(sample.captions == [] and len(sample.text_embeddings) == 0 for sample in samples)
    assert {sample.view_embeddings.shape for sample in samples} == {(1, DIM)}


def test_a_split_without_vectors_has_images_and_no_targets(
    embedded: Any, retrieval_layout: Path
) -> None:
    layout, params = embedded(of_layout(retrieval_layout, splits_without_embeddings=["test"]))
    assert {len(s.view_embeddings) for s in opened(layout, params, "test")} == {0}
    assert {len(s.text_embeddings) for s in opened(layout, params, "test")} == {0}
    assert {len(s.view_embeddings) for s in opened(layout, params, "val")} == {1}
    assert {len(s.text_embeddings) for s in opened(layout, params, "val")} == {2}
    verify_cache(opened(layout, params, "test"), load_teacher(layout.teacher), 4, whole=True)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_one_file_of_any_format_gives_the_same_teacher(
    suffix: str, tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    rows = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"vectors{suffix}"
    if suffix == ".npy":
        np.save(path, rows.numpy())
    elif suffix == ".pt":
        torch.save(rows, path)
    else:
        save_file({"vectors": rows}, path)
    params = make_params(teacher=of_rows(tmp_path, images=path.name))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, PrecomputedTeacher) and teacher.embed_dim == DIM
    found = teacher.image_embeddings([{"key": "x", "source": f"test_x/{n}"} for n in (3, 0)])
    wanted = torch.nn.functional.normalize(rows[[3, 0]], dim=1)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_class_names_are_known_by_the_prompt_that_was_embedded(
    tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    np.save(tmp_path / "images.npy", np.eye(4, DIM, dtype=np.float32))
    np.save(tmp_path / "names.npy", 3 * np.eye(2, DIM, dtype=np.float16))
    # LVIS lists its categories in no order, and its vectors follow their ids
    categories = [{"id": 2, "name": "car_(automobile)"}, {"id": 1, "name": "cat"}]
    (tmp_path / "names.json").write_text(json.dumps(categories))
    texts = [{"vectors": "names.npy", "names": "names.json", "template": "a {}"}]
    params = make_params(teacher=of_rows(tmp_path, images="images.npy", texts=texts))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    text = load_teacher(tmp_path / "teacher").text
    found = text.class_embeddings(["car (automobile)", "cat"], ["a {}"])
    assert torch.equal(found, torch.eye(2, DIM)[[1, 0]])
    with complains("no vector of the text 'a photo of a cat.'", "'a cat'", "2 texts"):
        text.class_embeddings(["cat"], ["a photo of a {}."])
    with complains("vectors and no towers"):
        load_towers(tmp_path / "teacher")


def test_several_views_need_a_teacher_that_can_see(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    with complains("embed.views is 3", "set it to 1"):
        embedded(of_layout(retrieval_layout), views=3)


def test_images_without_a_vector_are_counted_and_named(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    with complains("images have no vector", ".jpg", "/elsewhere/images/0.jpg", "prefix"):
        embedded(of_layout(retrieval_layout, prefix=""))


def test_captions_without_a_vector_are_counted_and_named(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "metadata_0.parquet"
    table = parquet.read_table(path)
    other = pa.array([f"another {n}" for n in range(len(table))])
    parquet.write_table(table.set_column(1, "caption", other), path)
    with complains("captions have no vector", "teacher.embeddings.captions to null"):
        embedded(of_layout(retrieval_layout))


def test_a_row_of_another_array_gets_no_vector(
    tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    np.save(tmp_path / "images.npy", np.eye(4, DIM, dtype=np.float32))
    params = make_params(teacher=of_rows(tmp_path, images="images.npy"))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, PrecomputedTeacher)
    with complains("'test_x/'", "train_x/0 is no such row"):
        teacher.image_embeddings([{"key": "k", "source": "train_x/0"}])
    with complains("1 of 1 images have no vector", "test_x/4"):
        teacher.image_embeddings([{"key": "k", "source": "test_x/4"}])


@pytest.mark.parametrize("name", ["../other.npy", "/elsewhere/vectors.npy", ""])
def test_files_that_dvc_would_not_watch_are_refused(
    name: str, tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    with complains("teacher.embeddings.images", "within teacher.path"):
        make_params(teacher=of_rows(tmp_path, images=name))


def refused(make_params: Callable[..., Params], folder: Path, teacher: dict[str, Any]) -> None:
    write_teacher(make_params(teacher=teacher).teacher, folder, folder / "teacher")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "1 of 8 vectors are zero, not finite"), (np.nan, "row 5"), (np.inf, "row 5")],
)
def test_vectors_that_point_nowhere_are_counted_and_named(
    value: float, words: str, make_params: Any, tmp_path: Path, complains: Any
) -> None:
    rows = np.ones((8, DIM), np.float32)
    rows[5] = value
    np.save(tmp_path / "images.npy", rows)
    with complains("images, part 0", words, "the first in row 5"):
        refused(make_params, tmp_path, of_rows(tmp_path, images="images.npy"))
    assert not (tmp_path / "teacher").exists()


def test_fewer_vectors_than_keys_are_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "img_emb_10.npy"
    np.save(path, np.load(path)[:-2])
    with complains("metadata_10.parquet: 7 rows for 5 vectors"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_one_key_with_two_different_vectors_is_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "img_emb_0.npy"
    rows = np.load(path)
    rows[1] = -rows[0]
    np.save(path, rows)
    with complains("images: rows 0 and 1 have one key and different vectors"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_parts_that_do_not_fit_together_are_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    (retrieval_layout / "metadata_3.parquet").unlink()
    with complains("img_emb_3.npy: is vectors without metadata"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_a_file_that_is_no_array_of_vectors_is_refused(tmp_path: Path, complains: Any) -> None:
    np.save(tmp_path / "whole.npy", np.ones((3, 4), np.int64))
    with complains("whole.npy: holds int64 [3, 4]"):
        read_vectors(tmp_path / "whole.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with complains("objects.npy", "cannot be read", "objects"):
        read_vectors(tmp_path / "objects.npy")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with complains("module.pt", "holds more than a tensor"):
        read_vectors(tmp_path / "module.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"no header")
    with complains("damaged.safetensors", "cannot be read"):
        read_vectors(tmp_path / "damaged.safetensors")
    with complains("vectors are read from .npy, .safetensors, .pt"):
        read_vectors(tmp_path / "vectors.bin")
    with complains("absent_*.npy: no such file", "check teacher.embeddings"):
        numbered_files(tmp_path, "absent_*.npy", "teacher.embeddings")


def test_genuine_clip_vectors_name_the_images_that_they_are_of(
    make_params: Any, shared_data: Path, tmp_path: Path
) -> None:
    texts = [
        {
            "vectors": "class_names/lvis_v1_clip_a+cname.npy",
            "names": "class_names/lvis_v1_train_cat_info.json",
            "template": "a {}",
        }
    ]
    folder = shared_data / "clip_vitb32"
    teacher = of_rows(folder, images="cifar10_500/image_embeddings.pt", texts=texts)
    refused(make_params, tmp_path, {**teacher, "path": str(folder)})
    loaded = load_teacher(tmp_path / "teacher")
    assert isinstance(loaded, PrecomputedTeacher)
    names = ["airplane", "car (automobile)", "bird", "cat", "deer", "dog", "frog", "horse", "truck"]
    labels = np.load(folder / "cifar10_500" / "image_labels.npy")
    kept = np.flatnonzero(labels != 8)
    found = loaded.image_embeddings([{"key": "", "source": f"test_x/{n}"} for n in kept])
    logits = found.astype(np.float32) @ loaded.text.class_embeddings(names, ["a {}"]).numpy().T
    order = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])
    assert (order[logits.argmax(axis=1)] == labels[kept]).mean() > 0.89
