"""The deployed forms and the cost of INT8, as a page, a line and metrics show them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.deployed import Deployed
from pipeline.report.report import report
from pipeline.report.results import Results
from pipeline.report.summary import print_summary
from tests.helpers.results import edit_json

Trained = tuple[Layout, Params]


def form(megabytes: float, *latencies: float) -> dict[str, Any]:
    one, batch, all_one, all_batch = latencies
    return {
        "file_bytes": int(megabytes * 1e6),
        "latency_ms": {
            "one_thread": {"1": one, "32": batch},
            "all_threads": {"1": all_one, "32": all_batch},
        },
    }


def entry(**changes: Any) -> dict[str, Any]:
    values = {
        "image_size": 64,
        "batch_size": 32,
        "threads": 2,
        "card": "0" * 64,
        "forms": {
            "torch": form(6.5, 2.9, 32.0, 2.0, 16.0),
            "onnx": form(6.2, 1.5, 48.0, 1.0, 24.0),
            "int8": form(1.9, 0.8, 16.0, 0.5, 8.0),
        },
        "int8_cost": {
            "zero_shot": {"top1": 0.8, "gain_top1": -0.0043,
                          "interval": {"top1": [0.7, 0.9], "gain_top1": [-0.012, 0.004]}},
            "retrieval": {"i2t_r5": 0.6, "t2i_r5": 0.5, "gain_i2t_r5": 0.0, "gain_t2i_r5": 0.011,
                          "interval": {"gain_i2t_r5": [-0.01, 0.01], "gain_t2i_r5": [0.0, 0.02]}},
        },
    }  # fmt: skip
    return {"deployed": values | changes}


def read(efficiency: dict[str, Any]) -> Deployed:
    found = Deployed.of(efficiency)
    assert found is not None
    return found


def test_latencies_of_a_batch_are_shown_per_image() -> None:
    found = read(entry())
    assert found.columns == ["1 thread", "1 thread, batch", "2 threads", "2 threads, batch"]
    assert found.batch_size == 32
    assert [row.latencies for row in found.forms] == [
        [2.9, 1.0, 2.0, 0.5], [1.5, 1.5, 1.0, 0.75], [0.8, 0.5, 0.5, 0.25],
    ]  # fmt: skip


def test_rows_have_one_order_in_a_file_of_sorted_keys() -> None:
    forms = dict(sorted(entry()["deployed"]["forms"].items()))
    assert [row.form for row in read(entry(forms=forms)).forms] == ["torch", "onnx", "int8"]


def test_one_core_and_batches_of_one_image_leave_one_column() -> None:
    found = read(entry(threads=1, batch_size=1))
    assert found.columns == ["1 thread"]
    assert found.forms[0].latencies == [2.9]


def test_the_cost_is_in_points_with_its_interval() -> None:
    assert read(entry()).cost() == (
        "INT8 minus float32, in points: zero-shot top-1 -0.4 [-1.2, +0.4]; "
        "image to text R@5 +0.0 [-1.0, +1.0]; text to image R@5 +1.1 [+0.0, +2.0]."
    )


@pytest.mark.parametrize("cost", [None, {"zero_shot": None, "retrieval": None}])
def test_without_a_known_cost_the_reason_is_given(cost: dict[str, None] | None) -> None:
    forms = entry()["deployed"]["forms"]
    assert read(entry(int8_cost=cost)).cost().startswith("The test split has neither labels")
    absent = read(entry(int8_cost=cost, forms=forms | {"int8": None}))
    assert absent.cost() == "The export has no INT8 file."
    assert "INT8 0.8" not in absent.line()


def test_the_line_has_latency_and_size_of_each_form() -> None:
    forms = "PyTorch 2.9 ms and 6.5 MB, ONNX 1.5 ms and 6.2 MB, INT8 0.8 ms and 1.9 MB"
    start = f"Deployed, one image of 64 px on one thread: {forms}. INT8 minus float32"
    assert read(entry()).line().startswith(start)


def test_mlflow_gets_few_numbers() -> None:
    assert read(entry()).metrics() == {
        "efficiency/onnx_latency_ms": 1.5,
        "efficiency/onnx_megabytes": 6.2,
        "efficiency/int8_latency_ms": 0.8,
        "efficiency/int8_megabytes": 1.9,
        "efficiency/int8_gain_top1": -0.0043,
        "efficiency/int8_gain_i2t_r5": 0.0,
        "efficiency/int8_gain_t2i_r5": 0.011,
    }


def test_metrics_of_a_version_without_exports_have_no_deployed_forms() -> None:
    assert Deployed.of({"student": {}}) is None


@pytest.mark.slow
def test_page_summary_and_metrics_show_the_deployed_forms(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, params = copied
    edit_json(paths.metrics / "efficiency.json", lambda v: v.update(
        deployed=entry()["deployed"] | {"card": v["deployed"]["card"]}))  # fmt: skip
    report(params, paths)
    page = paths.report.read_text(encoding="utf-8")
    cells = re.findall(r"<td[^>]*>(?:<bdi>)?([^<]*)(?:</bdi>)?</td>", page)
    start = cells.index("ONNX Runtime, INT8")
    assert cells[start + 1 : start + 6] == ["1.9 MB", "0.80 ms", "0.50 ms", "0.50 ms", "0.25 ms"]
    results = Results.read(params, paths)
    print_summary(results)
    cost = read(entry()).cost()
    assert cost in page and cost in capsys.readouterr().out
    assert results.metrics()["efficiency/int8_latency_ms"] == 0.8
