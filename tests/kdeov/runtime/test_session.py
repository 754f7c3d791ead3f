"""An ONNX file runs on the provider that was asked for, or one line says why not."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdeov.runtime.session import Session, choose_providers


@pytest.fixture
def doubler(tmp_path):
    """A model that doubles its input."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "doubler.onnx")
    return tmp_path / "doubler.onnx"


def test_a_model_runs_and_its_provider_is_logged(doubler, caplog, capfd):
    with caplog.at_level(logging.INFO):
        session = Session(doubler, ["y"], threads=1)
    assert session(x=np.float32([1, 2]))[0].tolist() == [2, 4]
    assert session.provider in caplog.text and len(caplog.messages) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("asked", ["CPU", "cpu", ["CPUExecutionProvider"], ("CPU", "cpu")])
def test_a_provider_is_named_in_any_spelling(asked, doubler):
    assert choose_providers(asked) == ["CPU"]
    assert Session(doubler, ["y"], asked).provider == "CPU"


def test_the_best_provider_is_a_local_one_and_the_cpu_is_the_last():
    chosen = choose_providers(None)
    assert chosen[-1] == "CPU" and not {"Azure", "Tensorrt"} & set(chosen)
    for name in onnxruntime.get_available_providers():
        short = name.removesuffix("ExecutionProvider")
        assert choose_providers([short])[0] == short


@pytest.mark.parametrize("asked", ["Abacus", ["CPU", "Abacus"], [None], []])
def test_an_unknown_provider_is_reported_with_the_available_ones(asked, mistake):
    with mistake("provider", "CPU"):
        choose_providers(asked)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_that_is_none_is_reported(threads, doubler, mistake):
    with mistake("threads"):
        Session(doubler, ["y"], threads=threads)


def test_a_file_that_is_no_model_is_one_line(doubler, mistake, capfd):
    whole = doubler.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-5], b"\xff" * 100):
        doubler.write_bytes(content)
        with mistake(doubler, "CPU"):
            Session(doubler, ["y"])
    doubler.unlink()
    with mistake(doubler):
        Session(doubler, ["y"])
    assert capfd.readouterr() == ("", "")


def test_another_model_is_reported(doubler, mistake, capfd):
    with mistake(doubler, "'embedding'"):
        Session(doubler, ["embedding"])
    session = Session(doubler, ["y"])
    with mistake(doubler, "'x'"):
        session(pixels=np.float32([1]))
    for wrong in (np.float64([1]), np.float32([[1]])):
        with mistake(doubler, "CPU"):
            session(x=wrong)
    with mistake(doubler):
        session(x=np.float32([1]), z=np.float32([1]))
    assert capfd.readouterr() == ("", "")
