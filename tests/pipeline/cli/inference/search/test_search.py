"""`kdeov search`: what fits, best first, and a word where nothing does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from kdeov import Model
from kdeov.runtime.texts import TextTower
from kdeov.weights.digests import with_digest
from pipeline.search.index import Index
from tests.helpers import ROOT

Command = Callable[..., Result]


@pytest.fixture
def indexed(kdeov: Command, here: Path) -> Path:
    """The folder with an index of its photographs."""
    assert kdeov("index", "photos", "--objects").exit_code == 0
    return here


def answers(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_hits_are_in_the_order_of_the_models_cosines(kdeov: Command, indexed: Path) -> None:
    model = Model.open("out/export")
    paths = [str(indexed / "photos" / f"{number}.png") for number in range(3)]
    cosines = (model.embed_image(paths) @ model.embed_text("a red ball").T)[:, 0]
    found = answers(kdeov("search", "a", "red", "ball", "--json"))
    assert [hit["image"] for hit in found] == [paths[row] for row in np.argsort(-cosines)]
    assert [hit["score"] for hit in found] == pytest.approx(
        np.sort(cosines)[::-1].tolist(), abs=2e-3
    )
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert all(0 < hit["probability"] <= 1 and hit["date"] is None for hit in found)
    assert len(answers(kdeov("search", "a red ball", "--json", "-k", "2"))) == 2


def test_minus_takes_away_what_is_not_wanted(kdeov: Command, indexed: Path) -> None:
    model = Model.open("out/export")
    images = model.embed_image([f"photos/{number}.png" for number in range(3)])
    texts = model.embed_text(["a ball", "red"])
    query = texts[0] - texts[1]
    wanted = np.sort(images @ (query / np.linalg.norm(query)))[::-1]
    found = answers(kdeov("search", "a ball", "--minus", "red", "--json"))
    assert [hit["score"] for hit in found] == pytest.approx(wanted.tolist(), abs=2e-3)
    result = kdeov("search", "red", "--minus", "red")
    assert result.exit_code == 1 and "cancels out" in result.stderr


def test_an_image_is_most_like_itself_with_or_without_its_row(
    kdeov: Command, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(indexed / "photos" / "1.png", indexed / "outside.png")
    found = answers(kdeov("search", "--like", "outside.png", "--json"))
    assert Path(found[0]["image"]).name == "1.png" and found[0]["score"] > 0.999
    monkeypatch.setattr(Model, "open", None)  # its row is there
    found = answers(kdeov("search", "--like", "photos/1.png", "--json"))
    assert Path(found[0]["image"]).name == "1.png" and found[0]["score"] > 0.999


def test_a_known_text_opens_no_tower_and_a_new_one_that_of_texts_alone(
    kdeov: Command, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "open", None)
    first = kdeov("search", "a blue ball")
    assert first.exit_code == 0
    monkeypatch.setattr(TextTower, "__init__", None)
    assert kdeov("search", "a blue ball").stdout == first.stdout
    assert kdeov("search", "a green ball").exit_code != 0


def test_the_model_of_the_index_is_found_from_another_folder(
    kdeov: Command, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = kdeov("search", "a red ball", "-i", str(indexed / "out" / "index"))
    assert result.exit_code == 0 and result.stdout.count("\n") == 3
    monkeypatch.setenv("KDEOV_INDEX", str(indexed / "out" / "index"))
    assert kdeov("search", "a red ball").stdout == result.stdout


def test_the_first_argument_may_be_the_index(kdeov: Command, indexed: Path) -> None:
    shutil.move(indexed / "out" / "index", indexed / "photos.index")
    result = kdeov("search", "photos.index", "a red ball")
    assert result.exit_code == 0 and result.stdout.count("\n") == 3
    assert kdeov("search", "a red ball", "-i", "photos.index").stdout == result.stdout
    assert kdeov("search", "photos.index", "--like", "photos/1.png").exit_code == 0
    assert "no such folder" in kdeov("search", "photos", "a red ball").stderr


def test_nothing_is_said_to_fit_where_every_image_may_be_an_accident(
    kdeov: Command, indexed: Path
) -> None:
    result = kdeov("search", "a red ball", "-p", "0.0001")
    assert result.exit_code == 0 and result.stdout == ""
    assert "nothing fits" in result.stderr and "0.0001" in result.stderr
    result = kdeov("search", "a red ball", "--where", "folder=nowhere")
    assert result.exit_code == 0 and "--where" in result.stderr


def test_regions_are_searched_with_boxes_in_the_image(kdeov: Command, indexed: Path) -> None:
    found = answers(kdeov("search", "a red ball", "--objects", "--json"))
    assert len({hit["image"] for hit in found}) == len(found) == 3
    for hit in found:
        left, top, right, bottom = hit["box"]
        assert 0 <= left < right <= 80 and 0 <= top < bottom <= 60
        assert "probability" not in hit
    index = Index.open("out/index")
    assert index.objects is not None
    text = Model.open("out/export").embed_text("a red ball")[0]
    best = np.nanmax(index.objects.astype(np.float32) @ text)
    assert found[0]["score"] == pytest.approx(best, abs=1e-3)


def test_a_sheet_shows_the_hits_and_replaces_itself_alone(kdeov: Command, indexed: Path) -> None:
    for _ in range(2):
        result = kdeov("search", "a red ball", "--sheet", "sheet.jpg")
        assert result.exit_code == 0 and "sheet.jpg" in result.stdout
    with Image.open("sheet.jpg") as sheet:
        assert sheet.format == "JPEG" and sheet.width > 3 * 240
        colors = sheet.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    for channel in range(3):  # red, green and blue circles are there
        assert any(
            color[channel] > 100 and max(color[:channel] + color[channel + 1 :]) < 60
            for _, color in colors
        )
    Image.new("RGB", (9, 9)).save("mine.jpg")
    before = Path("mine.jpg").read_bytes()
    result = kdeov("search", "a red ball", "--sheet", "mine.jpg")
    assert result.exit_code == 1 and "mine.jpg" in result.stderr
    assert Path("mine.jpg").read_bytes() == before
    assert kdeov("search", "a red ball", "--sheet", "sheet.png").exit_code == 1


def test_an_image_that_is_gone_leaves_its_place_on_the_sheet(kdeov: Command, indexed: Path) -> None:
    (indexed / "photos" / "0.png").unlink()
    assert kdeov("search", "a red ball", "--sheet", "sheet.jpg").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to find"]),
        (["  "], ["nothing to find"]),
        (["\u200b"], ["names nothing"]),
        (["caf\udce9"], ["'caf\\udce9'", "no text"]),  # not UTF-8
        (["a", "-i", "absent"], ["absent", "no such folder"]),
        (["a", "-i", "photos"], ["photos", "not an index"]),
        (["a", "--where", "camera=x"], ["camera=x"]),
        (["a", "--where", "folder=../.."], ["../.."]),
        (["--like", "absent.png"], ["absent.png", "no such file"]),
        (["a", "--objects", "-p", "0.1"], ["--objects", "--probability"]),
        (["a", "--ann"], ["--ann", "rows"]),
        (["a", "--model", "absent"], ["--model", "absent"]),
        (["a", "--templates", "no place"], ["no place"]),
    ],
)
def test_what_goes_wrong_is_named(
    kdeov: Command, indexed: Path, arguments: list[str], words: list[str]
) -> None:
    result = kdeov("search", *arguments)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdeov search: ") and all(word in line for word in words), line


def test_without_a_background_there_is_no_probability(kdeov: Command, indexed: Path) -> None:
    copy = indexed / "copy"
    shutil.copytree(indexed / "out" / "export", copy)
    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    del card["files"]["background.npy"], card["digest"]
    (copy / "card.json").write_text(json.dumps(with_digest(card)), encoding="utf-8")
    assert "probability" not in answers(kdeov("search", "a", "--json", "--model", "copy"))[0]
    result = kdeov("search", "a", "-p", "0.1", "--model", "copy")
    assert result.exit_code == 1 and "--probability" in result.stderr


def test_a_search_imports_no_torch_and_a_known_text_no_tokenizer(
    kdeov: Command, indexed: Path
) -> None:
    kdeov("search", "a red ball")
    code = (
        "import sys\nfrom pipeline.cli.main import app\n"
        "try:\n    app()\nfinally:\n"
        "    heavy = {'torch', 'ray', 'mlflow', 'faiss', 'webdataset', 'ftfy', 'fastapi'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "search", "a red ball"],
        capture_output=True, text=True, cwd=indexed, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.stdout.count("\n") == 3 and ran.stderr.strip() == "[]"
