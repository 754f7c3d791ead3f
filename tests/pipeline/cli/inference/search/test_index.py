"""`kdeov index`: an index that follows its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from kdeov import Model
from pipeline.inference.models import ExportedModel
from pipeline.search.index import REGIONS, Index
from tests.helpers.exported import write_export

Command = Callable[..., Result]
INDEX = Path("out/index")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of each forward pass; emptied by tests."""
    passes: list[int] = []
    embed = ExportedModel.embed_pixels

    def counted(self: ExportedModel, pixels: np.ndarray) -> np.ndarray:
        passes.append(len(pixels))
        return embed(self, pixels)

    monkeypatch.setattr(ExportedModel, "embed_pixels", counted)
    return passes


def embeddings() -> dict[str, np.ndarray]:
    """Rows of the index by path."""
    index = Index.open(INDEX)
    return {
        os.fsdecode(path): index.rows[row]
        for path, row in index.files.query("SELECT path, row FROM files")
    }


def test_rows_are_the_models_embeddings_and_paths_are_within_the_folder(
    kdeov: Command, here: Path
) -> None:
    (here / "photos" / "trip").mkdir()
    shutil.move(here / "photos" / "2.png", here / "photos" / "trip" / "2.png")
    result = kdeov("index", "photos")
    assert result.exit_code == 0 and "3 images (3 new)" in result.stdout
    found = embeddings()
    assert sorted(found) == ["0.png", "1.png", "trip/2.png"]
    wanted = Model.open("out/export").embed_image([f"photos/{name}" for name in sorted(found)])
    assert np.stack([found[name] for name in sorted(found)]) == pytest.approx(wanted, abs=1e-3)


def test_a_second_run_opens_no_model_and_changes_nothing(
    kdeov: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kdeov("index", "photos")
    before = (INDEX / "rows-1" / "embeddings.f16").read_bytes()
    monkeypatch.setattr(Model, "open", None)
    result = kdeov("index", "photos")
    assert result.exit_code == 0 and "3 images (as before)" in result.stdout
    assert (INDEX / "rows-1" / "embeddings.f16").read_bytes() == before


def test_moved_copied_and_touched_images_keep_their_rows(
    kdeov: Command, here: Path, embedded: list[int]
) -> None:
    kdeov("index", "photos")
    before = embeddings()
    embedded.clear()
    shutil.move(here / "photos" / "0.png", here / "photos" / "moved.png")
    shutil.copy(here / "photos" / "1.png", here / "photos" / "copy.png")
    os.utime(here / "photos" / "2.png", (1, 1))
    result = kdeov("index", "photos")
    assert "4 images (3 moved or copied, 1 gone)" in result.stdout
    after = embeddings()
    assert embedded == [] and len(Index.open(INDEX)) == 3
    assert sorted(after) == ["1.png", "2.png", "copy.png", "moved.png"]
    for new, old in {"moved.png": "0.png", "copy.png": "1.png", "2.png": "2.png"}.items():
        assert np.array_equal(after[new], before[old])


def test_changed_images_are_embedded_again_and_deleted_ones_are_not_found(
    kdeov: Command, here: Path, embedded: list[int]
) -> None:
    kdeov("index", "photos")
    embedded.clear()
    Image.new("RGB", (70, 70), "purple").save(here / "photos" / "1.png")
    (here / "photos" / "0.png").unlink()
    result = kdeov("index", "photos")
    assert "2 images (1 new, 1 gone)" in result.stdout and "2 embeddings" in result.stderr
    assert embedded == [1]
    hits = kdeov("search", "anything", "-k", "9").stdout.splitlines()
    assert sorted(Path(line.split()[-1]).name for line in hits) == ["1.png", "2.png"]
    wanted = Model.open("out/export").embed_image("photos/1.png")[0]
    assert embeddings()["1.png"] == pytest.approx(wanted, abs=1e-3)


def test_equal_new_images_share_one_row(kdeov: Command, here: Path, embedded: list[int]) -> None:
    for number in range(40):
        shutil.copy(here / "photos" / "0.png", here / "photos" / f"copy{number}.png")
    assert kdeov("index", "photos").exit_code == 0
    assert sum(embedded) == 3 and len(Index.open(INDEX)) == 3
    assert len(embeddings()) == 43


def test_an_unreadable_image_is_named_and_tried_again(kdeov: Command, here: Path) -> None:
    (here / "photos" / "broken.jpg").write_bytes(b"no image")
    bomb = Image.new("1", (30_000, 30_000))
    bomb.save(here / "photos" / "bomb.png")
    for known in ("3 new", "as before"):
        result = kdeov("index", "photos")
        assert result.exit_code == 2 and known in result.stdout
        assert "broken.jpg" in result.stderr and "bomb.png: too many pixels" in result.stderr
    Image.new("RGB", (30, 30)).save(here / "photos" / "broken.jpg")
    assert "4 images (1 new)" in kdeov("index", "photos").stdout


def test_a_folder_that_cannot_be_read_keeps_its_images(kdeov: Command, here: Path) -> None:
    (here / "photos" / "disk").mkdir()
    shutil.move(here / "photos" / "2.png", here / "photos" / "disk" / "2.png")
    kdeov("index", "photos")
    scandir = os.scandir

    def unreadable(path: str) -> object:
        if str(path).endswith("disk"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", unreadable)
        result = kdeov("index", "photos")
    assert result.exit_code == 2 and "disk: cannot be read" in result.stderr
    assert sorted(embeddings()) == ["0.png", "1.png", "disk/2.png"]


def test_links_out_of_the_folder_are_named_and_left_out(kdeov: Command, here: Path) -> None:
    shutil.move(here / "photos" / "2.png", here / "2.png")
    (here / "photos" / "out.png").symlink_to(here / "2.png")
    (here / "photos" / "in.png").symlink_to(here / "photos" / "1.png")
    result = kdeov("index", "photos")
    assert result.exit_code == 2 and "out.png: a link that leads out" in result.stderr
    assert sorted(embeddings()) == ["0.png", "1.png", "in.png"]


def test_dates_are_those_of_exif(kdeov: Command, here: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2021:07:04 12:30:00"
    Image.new("RGB", (40, 40), "teal").save(here / "photos" / "dated.jpg", exif=exif)
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    Image.new("RGB", (40, 40), "navy").save(here / "photos" / "odd.jpg", exif=exif)
    assert kdeov("index", "photos").exit_code == 0
    dates = dict(Index.open(INDEX).files.query("SELECT path, date FROM files"))
    assert dates == {
        b"0.png": None, b"1.png": None, b"2.png": None, b"odd.jpg": None,
        b"dated.jpg": "2021-07-04T12:30:00",
    }  # fmt: skip
    found = kdeov("search", "a", "--where", "date=2021-07")
    assert found.stdout.count("\n") == 1 and "dated.jpg" in found.stdout


def test_an_index_of_another_model_is_refused_and_rebuilt_beside(
    kdeov: Command, here: Path
) -> None:
    kdeov("index", "photos")
    write_export(here / "other", text="table", backbone="timm:resnet10t")
    result = kdeov("index", "photos", "--model", "other")
    assert result.exit_code == 1 and "--rebuild" in result.stderr
    assert kdeov("search", "a", "--model", "other").exit_code == 1
    assert kdeov("search", "a").exit_code == 0  # as before
    result = kdeov("index", "photos", "--model", "other", "--rebuild")
    assert result.exit_code == 0 and "3 images (3 new)" in result.stdout
    assert kdeov("search", "a red ball").exit_code == 0  # by the model that made it
    assert [path.name for path in INDEX.glob("rows-*")] == ["rows-2"]


def test_a_second_run_takes_the_model_that_made_the_index(
    kdeov: Command, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert kdeov("index", "photos", "-o", "photos.index").exit_code == 0
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)  # without an out/export
    Image.new("RGB", (40, 30), "pink").save(here / "photos" / "new.png")
    result = kdeov("index", here / "photos", "-o", here / "photos.index")
    assert result.exit_code == 0, result.stderr
    assert "1 new" in result.stdout


def test_an_index_belongs_to_one_folder_which_may_be_moved(kdeov: Command, here: Path) -> None:
    kdeov("index", "photos")
    shutil.copytree(here / "photos", here / "others")
    result = kdeov("index", "others")
    assert result.exit_code == 1 and "photos" in result.stderr and "others" in result.stderr
    shutil.rmtree(here / "photos")
    result = kdeov("index", "others")
    assert result.exit_code == 0 and Index.open(INDEX).root == here / "others"


def test_regions_are_stored_and_kept_up_to_date(kdeov: Command, here: Path) -> None:
    assert kdeov("index", "photos", "--objects").exit_code == 0
    Image.effect_noise((90, 90), 50).save(here / "photos" / "new.png")
    assert "4 images (1 new)" in kdeov("index", "photos").stdout
    index = Index.open(INDEX)
    assert index.objects is not None and index.boxes is not None
    assert len(index.objects) == len(index.boxes) == 4 * REGIONS
    there = np.isfinite(index.objects).all(axis=1)
    assert there.reshape(4, REGIONS)[:, 0].all()
    wide = index.objects[there].astype(np.float32)
    assert np.linalg.norm(wide, axis=1) == pytest.approx(np.ones(len(wide)), abs=2e-3)
    boxes = index.boxes[there]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (index.boxes[~there] == 0).all()


def test_regions_cannot_be_added_to_an_index_without(kdeov: Command, here: Path) -> None:
    kdeov("index", "photos")
    result = kdeov("index", "photos", "--objects")
    assert result.exit_code == 1 and "--rebuild" in result.stderr
    assert kdeov("index", "photos", "--objects", "--rebuild").exit_code == 0
    assert Index.open(INDEX).objects is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], ["absent", "no folder"]),
        (["photos/0.png"], ["photos/0.png", "no folder"]),
        (["empty"], ["empty", "no image"]),
        (["photos", "-o", "photos"], ["photos", "holds", "another -o"]),
        (["photos", "-o", "photos/0.png"], ["photos/0.png", "is a file"]),
        (["photos", "--model", "absent"], ["--model", "absent"]),
        (["photos", "--embeddings", "empty"], ["photos", "manifest.json"]),
    ],
)
def test_what_goes_wrong_is_named(
    kdeov: Command, here: Path, arguments: list[str], words: list[str]
) -> None:
    (here / "empty").mkdir()
    result = kdeov("index", *arguments)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("kdeov index: ") and all(word in last for word in words), last
    assert sorted(path.name for path in (here / "photos").iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_folder_that_is_empty_all_at_once_leaves_the_index_as_it_was(
    kdeov: Command, here: Path
) -> None:
    kdeov("index", "photos")
    for path in (here / "photos").iterdir():
        path.unlink()
    assert kdeov("index", "photos").exit_code == 1
    assert len(embeddings()) == 3
