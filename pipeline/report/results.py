"""The results of a run, read from the files of its stages: for the report, MLflow and `kdeov
summary`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.class_names import require_same_names
from pipeline.evaluation.shared.embeddings import ABSENT_KEY
from pipeline.evaluation.shared.metric_labels import METRIC_LABELS as METRIC_LABELS
from pipeline.evaluation.shared.metric_labels import TASKS as TASKS
from pipeline.report.deployed import Deployed
from pipeline.report.metrics_files import read_curve, read_metrics, read_scores
from pipeline.report.objects.scores import DetectionScores

DETECTION = "detection"
RERANK_METRICS = {"t2i_r1": "R@1", "t2i_r5": "R@5", "t2i_r10": "R@10"}
# MLflow gets every metric of the student; of these, also the teacher's, the share and intervals.
HEADLINE_METRICS = {
    "zero_shot": ("top1",),
    "linear_probe": ("top1",),
    "retrieval": ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5"),
}
COLUMNS = ("teacher", "student", "retained")
MLFLOW_GROUPS = {"zero_shot": "zeroshot"}  # where the group's name differs from the file's


@dataclass(frozen=True)
class MetricValue:
    """A metric with its 95% bootstrap interval.

    Attributes:
        value: A share (a recall, an accuracy, a ratio or a difference of them), or a rank.
        bounds: The interval, (low, high), in the unit of the value; None if there is none.
        is_rank: Whether the value is a rank.
    """

    value: float
    bounds: tuple[float, float] | None
    is_rank: bool = False

    @classmethod
    def of(cls, scores: dict[str, Any] | None, key: str) -> MetricValue | None:
        """A metric by its key; None if it is missing or has no value."""
        if not scores or scores.get(key) is None:
            return None
        bounds = scores.get("interval", {}).get(key)
        return cls(scores[key], tuple(bounds) if bounds else None, key.endswith("rank"))


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the table of teacher against student.

    Attributes:
        label: Name of the metric.
        teacher: The teacher's value; None if there is none.
        student: The student's value.
        retained: The student's share of the teacher's value; None if there is none.
    """

    label: str
    teacher: MetricValue | None
    student: MetricValue | None
    retained: MetricValue | None


@dataclass(frozen=True)
class Results:
    """The results of all stages.

    Attributes:
        run: The student's record.
        dataset: The data set of training and test.
        zero_shot: Metrics of this data set; empty if it has no labels.
        linear_probe: Metrics of this data set; empty if there is no probe.
        retrieval: Metrics of this data set; empty if it has no captions.
        detection: Metrics of this data set; None if it has no boxes, or the run no box head.
        absent: By evaluation, the reason why its metrics are empty.
        efficiency: Sizes and latencies.
        distill: Metrics of the end of training.
        history: The rows of `metrics/history.csv`, one an epoch.
    """

    run: RunRecord
    dataset: Dataset
    zero_shot: dict[str, Any]
    linear_probe: dict[str, Any]
    retrieval: dict[str, Any]
    detection: DetectionScores | None
    absent: dict[str, str]
    efficiency: dict[str, Any]
    distill: dict[str, Any]
    history: list[dict[str, float]]

    @classmethod
    def read(cls, params: Params, paths: Layout) -> Results:
        """Reads the results of the current student.

        Raises:
            DataError: A file is missing, damaged or edited, or holds metrics of another run, of
                another data set or of other class names. The message names the stage to run.
        """
        dataset, run = Dataset.read(paths.images), RunRecord.read(paths.student)
        scores = {name: read_scores(dataset, run, paths, name) for name in (*TASKS, DETECTION)}
        absent = {
            name: found.pop(ABSENT_KEY) for name, found in scores.items() if ABSENT_KEY in found
        }
        if scores["zero_shot"]:
            require_same_names(params.zero_shot.class_names, scores["zero_shot"].get("class_names"))
        found = scores.pop(DETECTION)
        return cls(
            run=run,
            dataset=dataset,
            **scores,
            detection=DetectionScores(found) if found else None,
            absent=absent,
            efficiency=read_metrics(run, paths, "efficiency"),
            distill=read_metrics(run, paths, "distill"),
            history=read_curve(run, paths),
        )

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The metrics by evaluation, without empty ones."""
        found = {name: getattr(self, name) for name in TASKS}
        return {name: scores for name, scores in found.items() if scores}

    @property
    def reranked(self) -> dict[str, Any]:
        """Metrics after re-ranking; empty if nothing was re-ranked."""
        return self.retrieval.get("reranked", {})

    @property
    def deployed(self) -> Deployed | None:
        """The deployed forms of the student; None where a version without them measured."""
        return Deployed.of(self.efficiency)

    def ceilings(self) -> dict[str, float]:
        """The largest recalls that captions shared by several images allow, where below 1."""
        found, keys = self.retrieval.get("ceiling", {}), HEADLINE_METRICS["retrieval"]
        return {key: found[key] for key in keys if found.get(key, 1.0) < 0.9995}

    def comparison(self) -> list[ComparisonRow]:
        """The rows of the table of teacher against student."""
        return [
            ComparisonRow(label, *(MetricValue.of(scores.get(column), key) for column in COLUMNS))
            for name, scores in self.evaluations.items()
            for key, label in METRIC_LABELS[name].items()
            if key in scores["student"] and not is_certain(key, scores)
        ]

    @property
    def has_teacher(self) -> bool:
        """Whether the cache holds teacher embeddings of the test images, and so metrics of it."""
        return any("teacher" in scores for scores in self.evaluations.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of that table; the student alone if the teacher has no metrics."""
        return COLUMNS if self.has_teacher else ("student",)

    def table(self) -> list[list[str]]:
        """The table as text: each row is a label and one cell a column."""
        formats = {"teacher": format_score, "student": format_score, "retained": format_percent}
        return [
            [row.label, *(formats[column](getattr(row, column)) for column in self.columns)]
            for row in self.comparison()
        ]

    def remarks(self) -> list[str]:
        """Sentences on metrics that the table lacks, and on images left out."""
        lines = [f"No {TASKS.get(name, name)}: {reason}." for name, reason in self.absent.items()]
        if self.evaluations and not self.has_teacher:
            lines.append(
                "No metrics of the teacher: there are no teacher embeddings of the test images."
            )
        labels = METRIC_LABELS["retrieval"]
        if values := [f"{labels[key]} {value:.3f}" for key, value in self.ceilings().items()]:
            lines.append(f"Images share captions: no model exceeds {'; '.join(values)}.")
        if elsewhere := self.zero_shot.get("teacher_on"):
            top1 = format_score(MetricValue.of(elsewhere, "top1"))
            lines.append(
                f"Zero-shot top-1 of the teacher on the {elsewhere['split']} split: {top1}."
            )
        if left_out := self.zero_shot.get("left_out"):
            lines.append(
                f"Zero-shot classification leaves out {left_out} images, of classes that "
                "zero_shot.class_names maps to null."
            )
        return lines

    def protocols(self) -> list[str]:
        """Protocol id and protocol of each evaluation, one a line."""
        return [f"{s['protocol_id']}  {s['protocol']}" for s in self.evaluations.values()]

    def metrics(self) -> dict[str, float]:
        """Metrics under names that MLflow groups.

        `zeroshot/top1` is the student's value, `zeroshot/teacher_top1` the teacher's. The
        teacher's values, shares and intervals are limited to `HEADLINE_METRICS`.
        """
        values: dict[str, float] = {}
        for name, scores in self.evaluations.items():
            group = MLFLOW_GROUPS.get(name, name)
            for key in METRIC_LABELS[name]:
                own = MetricValue.of(scores["student"], key)
                if own is None or is_certain(key, scores):
                    continue
                values[f"{group}/{key}"] = own.value
                if key not in HEADLINE_METRICS[name]:
                    continue
                if own.bounds:
                    values[f"{group}/{key}_low"], values[f"{group}/{key}_high"] = own.bounds
                for column in ("teacher", "retained"):
                    if (other := MetricValue.of(scores.get(column), key)) is not None:
                        values[f"{group}/{column}_{key}"] = other.value
        for key in RERANK_METRICS:
            if self.reranked:
                values[f"retrieval/reranked_{key}"] = self.reranked[key]
                values[f"retrieval/reranked_gain_{key}"] = self.reranked[f"gain_{key}"]
        for tower in ("student", "teacher", "reference"):
            for key, value in (self.efficiency[tower] or {}).items():
                if not isinstance(value, str):
                    values[f"efficiency/{tower}_{key}"] = value
        for part in (self.deployed, self.detection):
            values |= part.metrics() if part else {}
        return values


def format_score(value: MetricValue | None) -> str:
    """A share as `0.802 [0.778, 0.826]`, a rank as `4 [3, 5]`; empty for None."""
    return _format(value, "{:,.0f}" if value and value.is_rank else "{:.3f}")


def format_percent(value: MetricValue | None) -> str:
    """A share of the teacher's value as `98.2% [95.1, 101.0]`; empty for None."""
    text = _format(value, "{:.1%}").replace("%,", ",").replace("%]", "]")
    # a teacher that scores 0 in a bootstrap sample leaves no interval; none is not a narrow one
    return f"{text} [no interval]" if value and not value.bounds else text


def format_gain(value: MetricValue | None) -> str:
    """A difference of two shares as `+0.012 [-0.004, +0.028]`; empty for None."""
    return _format(value, "{:+.3f}")


def format_speedup(speedup: float) -> str:
    """A ratio of latencies as `16.5x faster` or `1.2x slower`."""
    return f"{speedup:.1f}x faster" if speedup >= 1 else f"{1 / speedup:.1f}x slower"


def _format(value: MetricValue | None, form: str) -> str:
    if value is None:
        return ""
    bounds = f" [{', '.join(map(form.format, value.bounds))}]" if value.bounds else ""
    return form.format(value.value) + bounds


def is_certain(key: str, scores: dict[str, Any]) -> bool:
    """Whether every model has this value: a hit among the first k of at most k candidates."""
    if key == "top5":
        return scores.get("classes", 6) <= 5
    direction, _, k = key.partition("_r")
    return k.isdigit() and int(k) >= scores["student"]["texts" if direction == "i2t" else "images"]
