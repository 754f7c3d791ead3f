"""Image shards hold what their manifests say, and come out the same every time."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.prepare.prepare import write_image_shards
from tests.helpers.manifests import manifests

MakeParams = Callable[..., Params]


@pytest.fixture
def own(tmp_path: Path, make_params: MakeParams) -> Callable[..., Params]:
    """Params for 40 images of one's own, of which the first few are `broken`."""

    def make(broken: int = 0, **changes: Any) -> Params:
        folder = tmp_path / "own" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(40):
            path = folder / f"{number:02d}.png"
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
            if number < broken:
                path.write_bytes(b"words")
        rows = "".join(f"{n:02d}.png,image {n}\n" for n in range(40))
        (folder.parent / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")
        section = {
            "source": "captions_csv", "path": str(folder.parent),
            "captions_csv": {"val": 0.3, "test": 0.3}, **changes,
        }  # fmt: skip
        return make_params(prepare=section)

    return make


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_manifests_count_and_vouch_for_what_the_tars_hold(built: Layout) -> None:
    sizes = {"train": [10, 10, 4], "val": [10, 2], "test": [10, 2]}
    for split in SPLITS:
        manifest = Manifest.read(built.images / split)
        assert manifest.samples == sum(sizes[split])
        assert manifest.sizes == sizes[split]
        for shard in manifest.shards:
            data = (built.images / split / shard.name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
            with tarfile.open(built.images / split / shard.name) as tar:
                assert len(tar.getnames()) == 2 * shard.samples


def test_a_sample_is_an_image_and_its_description(built: Layout) -> None:
    with tarfile.open(built.images / "test" / "000000.tar") as tar:
        assert tar.getnames()[:2] == ["test-0000000.jpg", "test-0000000.json"]
        image, description = (tar.extractfile(name) for name in tar.getnames()[:2])
        assert image is not None and description is not None
        assert Image.open(image).size == (96, 96)
        values = json.load(description)
    assert len(values["captions"]) == 3 and values["label"] == 0
    assert values["source"] == "scenes/test/0"


def test_the_data_set_is_described_beside_its_splits(built: Layout) -> None:
    dataset = Dataset.read(built.images)
    assert (dataset.name, dataset.source) == ("scenes", "scenes")
    assert dataset.samples == {"train": 24, "val": 12, "test": 12}
    assert len(dataset.classes) == 64
    assert [dataset.classes[n] for n in dataset.held_out_labels] == dataset.held_out


def test_the_same_inputs_give_the_same_bytes(built: Layout, params: Params, tmp_path: Path) -> None:
    write_image_shards(params.prepare, tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(built.images)


def test_rejected_inputs_are_listed_with_their_reasons(
    tmp_path: Path, own: Callable[..., Params], log: Any
) -> None:
    write_image_shards(own(broken=3, max_rejected=0.1).prepare, tmp_path / "out")
    found = manifests(tmp_path / "out")
    rejected = sorted((entry["name"], entry["reason"]) for m in found for entry in m.rejected)
    assert rejected == [(f"{n:02d}.png", "not an image") for n in range(3)]
    assert sum(manifest.samples for manifest in found) == 37
    assert "rejected 3 of 40 inputs" in log.text


def test_too_many_rejected_inputs_fail_the_stage_and_leave_no_manifest(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    params = own(broken=5, max_rejected=0.1)
    words = "5 of 40 inputs cannot be used", "max_rejected = 0.1", "not an image", "; ..."
    with complains(*words):
        write_image_shards(params.prepare, tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*.json") if path.stem in ("manifest", "dataset")]


def test_names_that_break_lines_are_reported_in_one(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    params = own(max_rejected=0)
    with open(params.prepare.path / "captions.csv", "a", encoding="utf-8") as file:
        file.write('"two\nlines.png",a dog\n')
    with complains("1 of 41 inputs cannot be used", r"'two\nlines.png': no such file"):
        write_image_shards(params.prepare, tmp_path / "out")


def test_classes_that_do_not_occur_in_training_are_reported(
    tmp_path: Path, make_params: MakeParams, log: Any
) -> None:
    for name in ("train/cat", "val/cat", "test/cat", "test/dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / name / "a.jpg")
    section = {"templates": "plain", "class_names": None, "val": 0, "test": 0}
    changes = {"source": "image_folder", "image_folder": section}
    params = make_params(prepare=changes | {"path": str(tmp_path / "own")})
    write_image_shards(params.prepare, tmp_path / "out")
    assert "1 of 2 classes do not occur in training: dog" in log.text


def test_a_failed_stage_leaves_no_manifest_of_shards_that_it_replaced(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    write_image_shards(own().prepare, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    with complains("the val split is empty"):
        write_image_shards(own(captions_csv={"val": 0, "test": 0.3}).prepare, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    params = own(max_rejected=0.1)
    with open(params.prepare.path / "captions.csv", "a", encoding="utf-8") as file:
        file.write("".join(f"lost-{n}.png,a dog\n" for n in range(9)))
    with complains("9 of 49 inputs cannot be used"):
        write_image_shards(params.prepare, tmp_path / "out")
    assert not [*tmp_path.rglob("manifest.json"), *tmp_path.rglob("dataset.json")]
    write_image_shards(own().prepare, tmp_path / "out")
    after = bytes_of(tmp_path / "out")
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert all(name.endswith(".record.json") for name in changed)  # times of files


def test_a_file_with_other_bytes_is_noticed(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    write_image_shards(own(max_rejected=0.1).prepare, tmp_path / "out")
    with complains("5 of 40 inputs cannot be used"):
        write_image_shards(own(broken=5, max_rejected=0.1).prepare, tmp_path / "out")
    write_image_shards(own(broken=4, max_rejected=0.1).prepare, tmp_path / "out")
    assert sum(m.samples for m in manifests(tmp_path / "out")) == 36


def test_a_split_without_images_is_named(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    params = own(captions_csv={"val": 0.0, "test": 0.5})
    with complains("the val split is empty", "larger share"):
        write_image_shards(params.prepare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_is_an_empty_data_set(
    tmp_path: Path, own: Callable[..., Params], complains: Any
) -> None:
    params = own()
    (params.prepare.path / "captions.csv").write_text("image,caption\n", encoding="utf-8")
    with complains(params.prepare.path, "the data set is empty"):
        write_image_shards(params.prepare, tmp_path / "out")
    assert not (tmp_path / "out").exists()
