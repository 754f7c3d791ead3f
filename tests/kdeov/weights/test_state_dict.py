"""Weight files that came from outside."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.weights.clip import load_clip_state_dict
from kdeov.weights.state_dict import (
    half_where_exact,
    read_state_dict,
    state_dict_sha256,
    write_tensors,
)

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(2, dtype=torch.int64)}
READERS = {
    "plain": read_state_dict,
    "clip": load_clip_state_dict,
    "yolo": lambda path: LightweightVisualBackbone("yolov8n", path),
    "timm": lambda path: LightweightVisualBackbone("timm:test_byobnet", path),
}


class Trap:
    """A pickle of it creates a file when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", ["trap.pt", "trap.bin", "legacy.pt", "bare.pkl"])
def test_a_file_that_would_run_code_is_refused_unread(tmp_path, mistake, reader, name):
    path, mark = tmp_path / name, tmp_path / "the code has run"
    content = {"model": Trap(mark), **STATE}
    if name == "bare.pkl":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name != "legacy.pt")
    with mistake(path):
        reader(path)
    assert not mark.exists()
    if name == "trap.pt":  # the trap works: reading without weights_only runs it
        torch.load(path, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize("content", [b"", b"no weights", bytes(range(256)) * 9])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, mistake, reader, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with mistake(path):
        reader(path)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_torn_file_is_refused_in_one_line(tmp_path, mistake, reader):
    torch.save(STATE, tmp_path / "whole.pt")
    write_tensors(tmp_path / "whole.safetensors", STATE)
    for whole in (tmp_path / "whole.pt", tmp_path / "whole.safetensors"):
        torn = whole.with_stem("torn")
        torn.write_bytes(whole.read_bytes()[:-20])
        with mistake(torn):
            reader(torn)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    "content",
    [[torch.zeros(2)], torch.zeros(2), {"a": [1, 2]}, {1: torch.zeros(2)}, 3],
    ids=["list", "tensor", "numbers", "numbered", "number"],
)
def test_tensors_without_names_are_refused_in_one_line(tmp_path, mistake, reader, content):
    torch.save(content, tmp_path / "weights.pt")
    with mistake(tmp_path / "weights.pt"):
        reader(tmp_path / "weights.pt")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_missing_file_is_refused_in_one_line(tmp_path, mistake, reader):
    for path in (tmp_path / "absent.pt", tmp_path):
        with mistake(path):
            reader(path)


def test_written_tensors_are_read_back(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {**STATE, "t": STATE["a.weight"].T})
    read = read_state_dict(tmp_path / "a.safetensors")
    assert sorted(read) == ["a.weight", "b", "t"]
    assert all(torch.equal(read[name], value) for name, value in STATE.items())
    assert torch.equal(read["t"], STATE["a.weight"].T)


def test_written_tensors_have_the_permissions_of_any_file(tmp_path):
    write_tensors(tmp_path / "a.safetensors", STATE)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_state_dicts_are_found_inside_training_checkpoints(tmp_path):
    wrapped = {"state_dict": {f"module.{name}": value for name, value in STATE.items()}}
    torch.save({**wrapped, "epoch": 3}, tmp_path / "checkpoint.pt")
    assert state_dict_sha256(read_state_dict(tmp_path / "checkpoint.pt")) == state_dict_sha256(
        STATE
    )


def test_the_digest_names_the_tensors_and_not_their_storage(tmp_path):
    digest = state_dict_sha256(STATE)
    turned = {"b": STATE["b"], "a.weight": STATE["a.weight"].T.contiguous().T}
    assert state_dict_sha256(turned) == digest
    weight = STATE["a.weight"]
    others = [
        {**STATE, "a.weight": weight + torch.eye(2, 3)},
        {**STATE, "a.weight": weight.view(3, 2)},
        {**STATE, "a.weight": weight.double()},
        {**STATE, "a.weight": weight.view(torch.int32)},
        {"c": STATE["b"], "a.weight": weight},
        {"a.weight": weight},
    ]
    assert len({digest, *map(state_dict_sha256, others)}) == 1 + len(others)


def test_half_precision_tensors_have_a_digest():
    states = [{"a": torch.ones(3, dtype=dtype)} for dtype in (torch.half, torch.bfloat16)]
    assert len({state_dict_sha256(state) for state in states}) == 2


def test_a_zip_of_something_else_is_refused(tmp_path, mistake):
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("weights/constants.pkl", b"no archive of tensors")
    with mistake(tmp_path / "archive.pt"):
        read_state_dict(tmp_path / "archive.pt")


def test_tensors_are_halved_only_where_nothing_is_lost():
    state = {
        "exact": torch.tensor([0.5, -2.0, 65504.0]),
        "finer": torch.tensor([0.1]),
        "larger": torch.tensor([1e6]),
        "count": torch.tensor([3]),
    }
    halved = half_where_exact(state)
    assert {name for name, value in halved.items() if value.dtype == torch.float16} == {"exact"}
    for name, value in halved.items():
        assert torch.equal(value.to(state[name].dtype), state[name])
