"""The folder of an export as a whole."""

from __future__ import annotations

import copy
import shutil
import tempfile

import numpy as np
import pytest
import torch

from kdeov.export.files import ExportImages, ExportInfo, export_model
from kdeov.runtime.card import CARD, DETECT, GOLDEN, INT8, TABLE_TEXTS, TEXT, read_card
from kdeov.weights.digests import sha256_file
from tests.helpers import ROOT
from tests.helpers.exported import export_images, small_detector, small_images, small_model


@pytest.fixture
def exported(request, yolo, timm):
    return {"yolo": yolo, "timm": timm}[request.param]


both = pytest.mark.parametrize("exported", ["yolo", "timm"], indirect=True)


@both
def test_the_card_names_every_other_file_with_its_sha256(exported):
    found = {path.name: sha256_file(path) for path in exported.folder.iterdir()}
    del found[CARD]
    assert found == exported.card.files


def test_the_files_are_those_that_the_student_needs(yolo, timm):
    image = {
        "image.onnx",
        "dense.onnx",
        "image.int8.onnx",
        "image.pt2",
        "golden.npz",
        "background.npy",
    }
    tower = {"text.onnx", "bpe_simple_vocab_16e6.txt.gz", "backbone.pt"}
    assert yolo.card.files.keys() == image | tower | {"detect.onnx"}
    assert timm.card.files.keys() == image | {"texts.json", "texts.npy", "backbone.safetensors"}


@both
def test_no_file_holds_a_path_of_this_machine(exported):
    paths = [str(ROOT), torch.__file__.rpartition("/site-packages")[0], tempfile.gettempdir()]
    for path in exported.folder.iterdir():
        content = path.read_bytes()
        assert [text for text in paths if text.encode() in content] == [], path.name


@both
def test_golden_outputs_are_the_students(exported):
    model = exported.model
    with np.load(exported.folder / GOLDEN, allow_pickle=False) as file:
        golden = dict(file)
    pixels = model.transform.normalize(torch.from_numpy(golden["pixels"]))
    classes = torch.from_numpy(golden["classes"])
    with torch.no_grad():
        embedding, heatmap = model.encode_image(pixels), model.heatmap(pixels, classes)
    assert torch.equal(torch.from_numpy(golden["embedding"]), embedding)
    np.testing.assert_allclose(golden["scores"], (embedding @ classes.T).numpy(), atol=1e-6)
    np.testing.assert_allclose(golden["heatmap"], heatmap.numpy(), atol=1e-6)
    assert golden["pixels"].shape[2:] == (2 * exported.card.stride, 3 * exported.card.stride)
    assert golden["int8_embedding"].shape == golden["embedding"].shape
    assert ("texts" in golden) == (exported.card.text.kind == "tower")


@both
def test_parity_of_every_model_stands_in_the_card(exported):
    compared = {"image.onnx", "dense.onnx", "image.pt2"}
    compared |= exported.card.files.keys() & {TEXT, DETECT}
    assert exported.card.parity.keys() == compared
    for name, parity in exported.card.parity.items():
        assert parity["cosine"] >= 0.9999
        assert parity["max_abs"] <= 1e-4 or name == TEXT


@pytest.mark.parametrize("name", ["card.json", "image.onnx", "texts.json"])
def test_files_of_others_are_neither_replaced_nor_deleted(tmp_path, timm, mistake, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"mine": 1}', encoding="utf-8")
    with mistake(tmp_path / "mine", name):
        export_model(timm.model, tmp_path / "mine", about=ExportInfo(name="small"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text(encoding="utf-8") == '{"mine": 1}'


def test_licenses_say_what_is_not_known(yolo, timm):
    assert yolo.card.licenses["data"] == "drawn for tests"
    assert "AGPL-3.0" in yolo.card.licenses["backbone"]
    assert "Apache-2.0" in timm.card.licenses["backbone"]
    assert "not recorded" in timm.card.licenses["teacher"]


def test_the_student_stays_as_it_is_and_nothing_is_printed(tmp_path, timm, capfd, caplog):
    model = copy.deepcopy(timm.model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    export_model(model, tmp_path / "export", about=ExportInfo(name="again"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == training
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.slow
def test_equal_students_and_images_give_equal_files(tmp_path, yolo):
    again = export_model(small_model(), tmp_path / "export", export_images(),
                         about=ExportInfo(name="small", licenses=yolo.card.licenses),
                         detector=small_detector(small_model()))  # fmt: skip
    assert again.files == yolo.card.files
    ours, theirs = ({**card.int8, "measured": None} for card in (again, yolo.card))
    assert (ours, again.parity) == (theirs, yolo.card.parity)


def test_an_export_replaces_the_one_before_it(tmp_path, yolo, timm):
    folder = tmp_path / "export"
    shutil.copytree(yolo.folder, folder)
    assert all((folder / name).exists() for name in (INT8, TEXT, DETECT))
    (folder / "mine.txt").write_text("of before", encoding="utf-8")
    card = export_model(timm.model, folder)
    assert card == read_card(folder)
    assert not card.int8 and card.detection is None and TABLE_TEXTS in card.files
    assert {path.name for path in folder.iterdir()} == {CARD, "mine.txt", *card.files}


@pytest.mark.parametrize(
    "images",
    [small_images(1), small_images(4)[:, 0], small_images(4).astype(np.float32)],
    ids=["one", "gray", "floats"],
)
def test_calibration_images_that_are_none_are_refused(tmp_path, timm, mistake, images):
    with mistake("calibration images", list(images.shape), "uint8"):
        export_model(timm.model, tmp_path / "export", ExportImages(images))
    assert not (tmp_path / "export").exists()
