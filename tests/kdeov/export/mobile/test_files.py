"""Files for devices: compared before they are kept, and recorded with those made before."""

from __future__ import annotations

import copy
import errno
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from kdeov.errors import DataError, StorageError
from kdeov.export.mobile.__main__ import main
from kdeov.export.mobile.files import CONVERTERS, export_mobile, require_converters
from kdeov.export.mobile.fixed import FixedImage
from kdeov.export.mobile.record import NOT_RUN, RECORD
from kdeov.models.model import KDEOVModel
from kdeov.weights.digests import read_description, sha256_file
from tests.kdeov.export.mobile.conftest import Negative, Package, Program

VERSION = metadata.version("torch")


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def _other(student: KDEOVModel) -> FixedImage:
    """A student of the same form and other weights."""
    changed = copy.deepcopy(student)
    with torch.no_grad():
        next(changed.student.projection.parameters()).mul_(1.5)
    return FixedImage.from_model(changed)


@pytest.mark.parametrize("target", CONVERTERS)
def test_a_missing_converter_is_one_line_with_its_installation(
    target, student, tmp_path, monkeypatch, mistake
):
    monkeypatch.setitem(sys.modules, CONVERTERS[target].modules[0], None)
    with mistake(f"--to {target}", CONVERTERS[target].package, "pip install"):
        export_mobile(student, tmp_path / "out", [target])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("targets", [[], ["onnx2", "coreml"], [""]])
def test_an_unknown_target_is_refused_with_the_known_ones(targets, student, tmp_path, mistake):
    with mistake("--to", *CONVERTERS):
        export_mobile(student, tmp_path / "out", targets)
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_given_twice_is_converted_once(monkeypatch):
    monkeypatch.setitem(CONVERTERS, "program", Program())
    assert [c.name for c in require_converters(["program", "program"])] == ["program"]


def test_the_record_describes_each_file(write, fixed, tmp_path):
    entries = write(Program(), Package())
    values = read_description(tmp_path / "out" / RECORD, "")
    assert values["preprocessing"] == {"size": 64, "interpolation": "bicubic", "crop": "center"}
    program, package = values["targets"]["program"], values["targets"]["package"]
    version = {"package": "torch", "version": VERSION, "torch": torch.__version__}
    assert program["converter"] == version
    assert program["input"] == {
        "name": "pixels", "shape": [1, 3, 64, 64], "dtype": "uint8", "layout": "NCHW",
        "color": "RGB",
    }  # fmt: skip
    assert program["output"] == {"name": "embedding", "shape": [1, 32], "dtype": "float32"}
    assert program["precision"] == "float32"
    assert program["parity"]["cosine"] >= 0.9999 and program["parity"]["max_abs"] <= 1e-4
    assert program["bytes"] == (tmp_path / "out" / "image.pt2").stat().st_size
    assert package["parity"] == NOT_RUN == "converted, not run"
    assert set(entries) == {"program", "package"}
    recorded = json.loads((tmp_path / "out" / RECORD).read_text(encoding="utf-8"))["files"]
    assert recorded == {
        name: sha256_file(tmp_path / "out" / name) for name in _files(tmp_path / "out") - {RECORD}
    }
    assert set(package["files"]) == {
        "image.package/manifest.json", "image.package/data/weights/image.pt2",
    }  # fmt: skip


def test_a_file_that_differs_from_pytorch_is_not_kept(write, tmp_path):
    with pytest.raises(DataError, match=r"image\.pt2.*cosine"):
        write(Package(), Negative())
    assert not (tmp_path / "out").exists()


def test_files_stay_as_they_were_when_a_later_conversion_fails(write, student, tmp_path):
    write(Program())
    before = {name: sha256_file(tmp_path / "out" / name) for name in _files(tmp_path / "out")}
    with pytest.raises(DataError):
        write(Negative(), image=_other(student))
    assert before == {n: sha256_file(tmp_path / "out" / n) for n in _files(tmp_path / "out")}


@pytest.mark.parametrize("error", [RuntimeError("no such\noperation"), KeyError("uint8")])
def test_a_network_that_cannot_be_converted_is_named_with_the_converter(
    error, write, tmp_path, mistake
):
    class Refusing(Program):
        def write(self, image, folder):
            raise error

    with mistake("image.pt2", f"torch {VERSION}", "--to"):
        write(Refusing())
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_no_fault_of_the_network(write, tmp_path):
    class Full(Program):
        def write(self, image, folder):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError):
        write(Full())


def test_targets_of_the_same_student_add_up(write, tmp_path):
    write(Package())
    written = sha256_file(tmp_path / "out" / "image.package/data/weights/image.pt2")
    assert set(write(Program())) == {"package", "program"}
    values = read_description(tmp_path / "out" / RECORD, "")
    assert set(values["targets"]) == {"package", "program"}
    assert written == sha256_file(tmp_path / "out" / "image.package/data/weights/image.pt2")


def test_files_of_another_student_are_removed(write, student, tmp_path):
    write(Package())
    (tmp_path / "out" / "mine.txt").write_text("of the user", encoding="utf-8")
    assert set(write(Program(), image=_other(student))) == {"program"}
    assert _files(tmp_path / "out") == {"image.pt2", RECORD, "mine.txt"}
    assert not (tmp_path / "out" / "image.package").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"targets": {"a": {"files": ["../mine.txt"]}}}'])
def test_a_damaged_record_is_replaced_and_removes_nothing(damage, write, tmp_path, caplog):
    write(Package())
    (tmp_path / "mine.txt").write_text("of the user", encoding="utf-8")
    (tmp_path / "out" / RECORD).write_text(damage, encoding="utf-8")
    assert set(write(Program())) == {"program"}
    assert RECORD in caplog.text
    assert (tmp_path / "mine.txt").exists()
    assert (tmp_path / "out" / "image.package" / "manifest.json").exists()


def test_the_command_converts_an_export(export, tmp_path, monkeypatch):
    monkeypatch.setitem(CONVERTERS, "program", Program())
    out = tmp_path / "out"
    assert main([str(export), "-o", str(out), "--to", "program"]) is None
    assert _files(out) == {"image.pt2", RECORD}


def test_the_command_returns_an_error_of_one_line(tmp_path):
    error = main([str(tmp_path), "-o", str(tmp_path / "out"), "--to", "nothing"])
    assert error is not None and "nothing" in error and "\n" not in error
