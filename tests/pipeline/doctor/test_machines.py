"""Machines that differ from the others, or from what params ask for, are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.execution_params import ClusterParams
from pipeline.doctor import machines
from pipeline.doctor.check import first_few
from pipeline.doctor.node import Gpu, NodeFacts, Questions, inspect_node
from pipeline.doctor.nodes import Survey
from tests.helpers.doctor import node, verdicts

CLUSTER = {"mode": "cluster", "address": "http://127.0.0.1:8265"}
H100, V100 = Gpu("NVIDIA H100", True), Gpu("Tesla V100", False)


def test_the_node_that_differs_is_named_with_both_versions() -> None:
    odd = node("c", versions={"python": "3.11.7", "torch": "2.7.0", "ray": "2.60.0"}, code="other")
    versions, code = machines.consistency(Survey([node("a"), node("b"), odd], {}))
    assert versions.verdict == code.verdict == "error"
    assert versions.finding == "c has torch 2.7.0, others have 2.14.1"
    assert code.finding == "c has code other, others have c0de"


def test_a_package_that_one_node_lacks_is_a_difference() -> None:
    rich = node("b", versions={**node().versions, "timm": "1.0.31"})
    (versions,) = [
        c for c in machines.consistency(Survey([node("a"), node("c"), rich], {})) if "v" in c.name
    ]
    assert versions.finding == "b has timm 1.0.31, others have none"


def test_a_node_that_does_not_answer_is_named() -> None:
    checks = machines.consistency(Survey([node()], {"b": "did not answer"}))
    assert checks[0].text.startswith("b did not answer") and checks[0].verdict == "error"


@pytest.mark.parametrize(
    ("ahead", "error", "verdict"),
    [(0.5, 0.0, "ok"), (3.0, 0.0, "warning"), (3.0, 1.5, "ok"), (-400.0, 0.1, "error")],
)
def test_clock_skew_counts_beyond_the_error_of_the_round_trip(
    ahead: float, error: float, verdict: str
) -> None:
    (check,) = machines.clocks([node("a"), node("b", clock=ahead, clock_error=error)])
    assert check.verdict == verdict
    if verdict != "ok":
        assert f"{abs(ahead):.1f} s ahead" in check.finding


@pytest.mark.parametrize(
    ("cluster", "nodes", "verdict", "words"),
    [
        ({"num_workers": 4}, [node(gpus=(H100,) * 4, gpus_of_ray=4)], "ok", "GPUs train"),
        ({"num_workers": 4}, [node(gpus=(H100,) * 2)] * 2, "ok", "4 GPUs (NVIDIA H100)"),
        ({"num_workers": 4}, [node(gpus=(H100,) * 2)], "warning", "set cluster.num_workers to 2"),
        ({"num_workers": [2, 8]}, [node(gpus=(H100,) * 2)], "ok", "2 of up to 8 workers"),
        ({"num_workers": 4, "use_gpu": True}, [node(gpus=(H100,))], "error", "workers = 4"),
        ({"num_workers": 4, "use_gpu": False}, [node(gpus=(H100,))], "ok", "CPUs train"),
        ({"num_workers": 4}, [node()], "ok", "4 CPUs, 0 GPUs: CPUs train"),
        ({"num_workers": 9}, [node()], "warning", "set it to 4"),
        ({"num_workers": 9, **CLUSTER}, [node()] * 2, "warning", "waits for more"),
        ({"num_workers": 9, "use_gpu": True, **CLUSTER}, [node(gpus=(H100,))], "warning", "waits"),
        ({"num_workers": 9, "use_gpu": True, **CLUSTER}, [node()], "warning", "0 GPUs"),
        ({"num_workers": 9, "use_gpu": True, "mode": "local"}, [node()], "error", "0 GPUs"),
        ({"num_workers": 9, "mode": "inline"}, [node()], "ok", "CPUs train"),
    ],
)
def test_devices_are_compared_with_what_params_ask_for(
    cluster: dict[str, Any], nodes: list[NodeFacts], verdict: str, words: str
) -> None:
    (check,) = machines.devices(nodes, ClusterParams(**cluster))
    assert check.verdict == verdict and words in check.text


def test_gpus_that_torch_cannot_use_and_old_ones_are_named() -> None:
    cluster = ClusterParams(num_workers=2)
    checks = machines.devices([node(gpus_of_ray=2)], cluster)
    assert verdicts(checks) == {"gpu": "error", "devices": "ok"}
    assert "Ray has 2 GPUs, torch sees 0" in checks[0].finding
    checks = machines.devices([node(gpus=(V100, H100))], cluster)
    assert verdicts(checks) == {"devices": "ok", "bfloat16": "warning"}
    assert "a: Tesla V100" in checks[1].finding


def test_the_facts_of_this_machine_are_found(tmp_path: Path) -> None:
    facts = inspect_node(Questions(disk_paths=(tmp_path / "to" / "come",)), "me")
    assert facts.versions["torch"] and facts.versions["python"] and len(facts.code) == 12
    assert facts.cpus >= 1 and facts.disk_free[tmp_path / "to" / "come"] > 0
    assert facts.storages == {} and facts.shards == ()


def test_long_lists_are_counted() -> None:
    assert first_few("ab") == "a, b"
    assert first_few("abcdef") == "a, b, c and 3 more"
