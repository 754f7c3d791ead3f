"""Teachers of embeddings computed elsewhere: each image and caption gets its own, or is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards
from pipeline.data.verify import verify_cache
from pipeline.embedding.embed import embed
from pipeline.prepare.prepare import prepare
from pipeline.teachers.load import load_teacher, load_towers
from pipeline.teachers.make_teacher import write_teacher
from pipeline.teachers.precomputed import PrecomputedTeacher
from tests.helpers.teachers import DIM, NUM_IMAGES, of_layout, of_rows


@pytest.fixture
def embedded(
    make_params: Callable[..., Params], images: Path, tmp_path: Path
) -> Callable[..., tuple[Layout, Params]]:
    """Runs `prepare`, `teacher` and `embed` on the images with a teacher."""

    def run(teacher: dict[str, Any], views: int = 1, regions: int = 0) -> tuple[Layout, Params]:
        source = {"images": "images", "table": "captions.csv", "image_column": "image"}
        columns = {"caption_column": "caption", "label_column": None, "val": 0.2, "test": 0.2}
        params = make_params(
            prepare={
                "source": "captions_csv", "path": str(images), "dataset": "numbers",
                "captions_csv": {**source, **columns},
            },
            teacher=teacher,
            embed={"views": views, "regions": {"count": regions}},
        )  # fmt: skip
        layout = Layout(tmp_path / "checkout")
        prepare(params, layout)
        write_teacher(params.teacher, layout.images, layout.teacher)
        embed(params, layout)
        return layout, params

    return run


def opened(layout: Layout, params: Params, split: str) -> PairedShards:
    identity = cache_identity(read_teacher_identity(layout.teacher), params.embed, split)
    return PairedShards(layout.images / split, layout.embeddings / split, identity)


def unit(row: np.ndarray) -> np.ndarray:
    return row.astype(np.float32) / np.linalg.norm(row.astype(np.float32))


def test_each_image_and_caption_gets_the_embedding_that_clip_retrieval_gave_it(
    embedded: Any, retrieval_layout: Path, embeddings: dict[str, np.ndarray]
) -> None:
    layout, params = embedded(of_layout(retrieval_layout))
    seen = 0
    for split in ("train", "val", "test"):
        for sample in opened(layout, params, split):
            number = int(sample.source.removesuffix(".jpg"))
            wanted = unit(embeddings["images"][2 * number])
            np.testing.assert_allclose(sample.view_embeddings[0], wanted, atol=1e-3)
            for caption, embedding in zip(sample.captions, sample.text_embeddings, strict=True):
                row = 2 * number + caption.startswith("number")
                np.testing.assert_allclose(embedding, unit(embeddings["captions"][row]), atol=1e-3)
                seen += 1
    assert seen == 2 * NUM_IMAGES


def test_the_cache_of_given_embeddings_proves_itself(embedded: Any, retrieval_layout: Path) -> None:
    layout, params = embedded(of_layout(retrieval_layout))
    teacher = load_teacher(layout.teacher)
    assert verify_cache(opened(layout, params, "train"), teacher, 8, whole=True) > 0.9999


def test_without_captions_images_alone_are_cached(embedded: Any, retrieval_layout: Path) -> None:
    layout, params = embedded(of_layout(retrieval_layout, captions=None))
    samples = list(opened(layout, params, "train"))
    assert all(sample.captions == [] and len(sample.text_embeddings) == 0 for sample in samples)
    assert {sample.view_embeddings.shape for sample in samples} == {(1, DIM)}


def test_a_split_without_embeddings_has_images_and_no_targets(
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
    path = tmp_path / f"embeddings{suffix}"
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
    # LVIS lists its categories in no order, and its embeddings follow their ids
    categories = [{"id": 2, "name": "car_(automobile)"}, {"id": 1, "name": "cat"}]
    (tmp_path / "names.json").write_text(json.dumps(categories), encoding="utf-8")
    texts = [{"vectors": "names.npy", "names": "names.json", "template": "a {}"}]
    params = make_params(teacher=of_rows(tmp_path, images="images.npy", texts=texts))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    text = load_teacher(tmp_path / "teacher").text
    found = text.class_embeddings(["car (automobile)", "cat"], ["a {}"])
    assert torch.equal(found, torch.eye(2, DIM)[[1, 0]])
    with complains("'a photo of a cat.'", "'a cat'", "2 texts"):
        text.class_embeddings(["cat"], ["a photo of a {}."])
    with complains("no towers"):
        load_towers(tmp_path / "teacher")


def test_several_views_need_a_teacher_that_can_see(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    with complains("embed.views", "3"):
        embedded(of_layout(retrieval_layout), views=3)


def test_regions_need_a_teacher_that_can_see(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    with complains("embed.regions.count", "2"):
        embedded(of_layout(retrieval_layout), regions=2)


def test_images_without_an_embedding_are_counted_and_named(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    with complains("images", ".jpg", "/elsewhere/images/0.jpg", "prefix"):
        embedded(of_layout(retrieval_layout, prefix=""))


def test_captions_without_an_embedding_are_counted_and_named(
    embedded: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "metadata_0.parquet"
    table = parquet.read_table(path)
    other = pa.array([f"another {n}" for n in range(len(table))])
    parquet.write_table(table.set_column(1, "caption", other), path)
    with complains("captions", "teacher.embeddings.captions"):
        embedded(of_layout(retrieval_layout))


@pytest.mark.parametrize("blank", ["", None, " \t", "\u200b"])
def test_captions_that_are_empty_stop_nothing(
    retrieval_layout: Path,
    embeddings: dict[str, np.ndarray],
    make_params: Callable[..., Params],
    tmp_path: Path,
    complains: Any,
    blank: str | None,
) -> None:
    path = retrieval_layout / "metadata_0.parquet"
    table = parquet.read_table(path)
    captions = [blank, blank, *table.column("caption").to_pylist()[2:]]
    parquet.write_table(table.set_column(1, "caption", pa.array(captions, pa.string())), path)
    params = make_params(teacher=of_layout(retrieval_layout))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, PrecomputedTeacher)
    found = teacher.caption_embeddings(["image 1", "number 1"])
    for row, embedding in zip(embeddings["captions"][2:4], found, strict=True):
        np.testing.assert_allclose(embedding, unit(row), atol=1e-3)
    for text in ("", "image 0"):
        with complains("captions have no embedding"):
            teacher.caption_embeddings([text])


@pytest.mark.parametrize("prefix", ["/elsewhere/images/", "/elsewhere/images"])
def test_an_image_finds_its_embedding_however_its_name_is_spelled(
    retrieval_layout: Path, make_params: Callable[..., Params], tmp_path: Path, prefix: str
) -> None:
    path = retrieval_layout / "metadata_0.parquet"
    table = parquet.read_table(path)
    names = table.column("image_path").to_pylist()
    names = [n.replace("/0.jpg", "/./cafe\u0301.jpg").replace("/1.jpg", "//1.jpg") for n in names]
    parquet.write_table(table.set_column(0, "image_path", pa.array(names)), path)
    params = make_params(teacher=of_layout(retrieval_layout, prefix=prefix))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, PrecomputedTeacher)
    for name in ("caf\u00e9.jpg", "cafe\u0301.jpg", "1.jpg"):
        assert teacher.image_embeddings([{"key": "k", "source": name}]).shape == (1, DIM)


def test_a_row_of_another_array_gets_no_embedding(
    tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    np.save(tmp_path / "images.npy", np.eye(4, DIM, dtype=np.float32))
    params = make_params(teacher=of_rows(tmp_path, images="images.npy"))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, PrecomputedTeacher)
    with complains("'test_x/'", "train_x/0"):
        teacher.image_embeddings([{"key": "k", "source": "train_x/0"}])
    with complains("1 of 1 images", "test_x/4"):
        teacher.image_embeddings([{"key": "k", "source": "test_x/4"}])


@pytest.mark.parametrize("name", ["../other.npy", "/elsewhere/embeddings.npy", ""])
def test_files_that_dvc_would_not_watch_are_refused(
    name: str, tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    with complains("teacher.embeddings.images", "within teacher.path"):
        make_params(teacher=of_rows(tmp_path, images=name))


def test_genuine_clip_embeddings_name_the_images_that_they_are_of(
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
    params = make_params(teacher={**teacher, "path": str(folder)})
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    loaded = load_teacher(tmp_path / "teacher")
    assert isinstance(loaded, PrecomputedTeacher)
    names = ["airplane", "car (automobile)", "bird", "cat", "deer", "dog", "frog", "horse", "truck"]
    labels = np.load(folder / "cifar10_500" / "image_labels.npy")
    kept = np.flatnonzero(labels != 8)
    found = loaded.image_embeddings([{"key": "", "source": f"test_x/{n}"} for n in kept])
    logits = found.astype(np.float32) @ loaded.text.class_embeddings(names, ["a {}"]).numpy().T
    order = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])
    assert (order[logits.argmax(axis=1)] == labels[kept]).mean() > 0.89


@pytest.mark.parametrize("name", ["images.npy", "images.index.npy", "text_encoder.json"])
def test_a_damaged_teacher_is_refused_in_one_line(
    name: str, tmp_path: Path, make_params: Callable[..., Params], complains: Any
) -> None:
    np.save(tmp_path / "images.npy", np.eye(4, DIM, dtype=np.float32))
    params = make_params(teacher=of_rows(tmp_path, images="images.npy"))
    write_teacher(params.teacher, tmp_path, tmp_path / "teacher")
    (tmp_path / "teacher" / name).write_bytes(b"[]")
    with complains(tmp_path / "teacher", "dvc repro -f teacher"):
        load_teacher(tmp_path / "teacher")
