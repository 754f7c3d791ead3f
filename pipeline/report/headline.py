"""The headline metrics of a run: what MLflow's table and charts show, under stable names.

MLflow's page sorts groups of charts by name, so accuracy comes first, then retrieval, then the
curves of `train` and `val`, and the workload last.
"""

from __future__ import annotations

from pipeline.report.results import Results
from pipeline.tracking.target import TrackingTarget, request_limits
from pipeline.tracking.view import set_view

HEADLINE = {
    "accuracy/top1": "zeroshot/top1",
    "accuracy/teacher_top1": "zeroshot/teacher_top1",
    "accuracy/retained_top1": "zeroshot/retained_top1",
    "accuracy/heldout_top1": "zeroshot/heldout_top1",
    "accuracy/probe_top1": "linear_probe/top1",
    "accuracy/ap50": "detection/all_ap50",
    "accuracy/int8_gain": "efficiency/int8_gain_top1",
    "retrieval/i2t_r1": "retrieval/i2t_r1",
    "retrieval/i2t_r5": "retrieval/i2t_r5",
    "retrieval/t2i_r1": "retrieval/t2i_r1",
    "retrieval/t2i_r5": "retrieval/t2i_r5",
    "retrieval/t2i_r5_retained": "retrieval/retained_t2i_r5",
    "workload/latency_ms": "efficiency/onnx_latency_ms",
    "workload/megabytes": "efficiency/onnx_megabytes",
    "workload/macs": "efficiency/student_macs",
}
"""By name, the metric of `Results.metrics`. MLflow has these as metrics of a run, 15 at most, and
the others in the run's files."""


COLUMNS = (
    "accuracy/top1",
    "accuracy/retained_top1",
    "accuracy/heldout_top1",
    "retrieval/t2i_r5",
    "retrieval/i2t_r5",
    "accuracy/ap50",
    "workload/latency_ms",
    "workload/megabytes",
)
"""The headline metrics that are columns of MLflow's table of runs, in order."""


def choose_columns(target: TrackingTarget) -> str | None:
    """Chooses the columns of MLflow's table of runs.

    Returns:
        The id of the experiment; None where there is none yet.

    Raises:
        StorageError: MLflow cannot be written.
    """
    with target.one_line_errors(), request_limits(timeout_s=10, max_retries=1):
        client = target.client()
        if (experiment := target.find_experiment(client)) is not None:
            set_view(client, experiment, COLUMNS)
        return experiment


def headline_metrics(results: Results) -> dict[str, float]:
    """The headline metrics of a run, without those that its data set or its export lacks.

    Args:
        results: The results of all stages.

    Returns:
        By name, a share (a recall, an accuracy or a difference of them), milliseconds an image,
        megabytes, or multiply-accumulates an image.
    """
    found = results.metrics()
    return {name: float(found[key]) for name, key in HEADLINE.items() if key in found}
