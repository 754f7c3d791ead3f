"""The published files of a run, read together: for the report, for MLflow and for the console."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from kdeov.errors import KdeovError
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.class_names import require_same_names
from pipeline.evaluation.shared.embeddings import ABSENT
from pipeline.storage.files import read_json

TASKS = {
    "zero_shot": "zero-shot classification",
    "linear_probe": "linear probe",
    "retrieval": "retrieval",
}
EVALUATIONS = tuple(TASKS)
ROWS = {
    "zero_shot": {
        "top1": "zero-shot top-1",
        "top5": "zero-shot top-5",
        "mean_per_class": "zero-shot mean per class",
        "seen_top1": "zero-shot top-1, seen classes",
        "heldout_top1": "zero-shot top-1, held-out classes",
    },
    "linear_probe": {
        "top1": "linear probe top-1",
        "mean_per_class": "linear probe mean per class",
    },
    "retrieval": {
        f"{way}_{name}": f"{text}, {label}"
        for way, text in (("i2t", "image to text"), ("t2i", "text to image"))
        for name, label in (
            ("r1", "R@1"),
            ("r5", "R@5"),
            ("r10", "R@10"),
            ("median_rank", "median rank"),
        )
    },
}
RERANKED = {"t2i_r1": "R@1", "t2i_r5": "R@5", "t2i_r10": "R@10"}
# What MLflow compares runs by: the teacher, shares and intervals of these, and all of the student.
HEADLINES = {
    "zero_shot": ("top1",),
    "linear_probe": ("top1",),
    "retrieval": ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5"),
}
COLUMNS = ("teacher", "student", "retained")
GROUPS = {"zero_shot": "zeroshot"}  # names of groups in MLflow that differ from the file's


@dataclass(frozen=True)
class Value:
    """A number with its 95% interval, where it has one: a share, or else a rank."""

    value: float
    bounds: tuple[float, float] | None
    rank: bool = False

    @classmethod
    def of(cls, scores: dict[str, Any] | None, key: str) -> Value | None:
        """A metric of a model, or None where it has none."""
        if not scores or scores.get(key) is None:
            return None
        bounds = scores.get("interval", {}).get(key)
        return cls(scores[key], tuple(bounds) if bounds else None, key.endswith("rank"))


@dataclass(frozen=True)
class Row:
    """A line of the table of teacher against student; what is None is blank."""

    label: str
    teacher: Value | None
    student: Value | None
    retained: Value | None


@dataclass(frozen=True)
class Results:
    """All that a run has to show.

    Attributes:
        run: The student's record.
        dataset: What it was tested on.
        zero_shot: Of this data set, empty where there is nothing to classify.
        linear_probe: Of this data set, empty where there is nothing to learn.
        retrieval: Of this data set, empty where it has no captions.
        absent: By evaluation, why it is empty.
        efficiency: Sizes and latencies.
        distill: The end of training.
        history: One row an epoch.
    """

    run: RunRecord
    dataset: Dataset
    zero_shot: dict[str, Any]
    linear_probe: dict[str, Any]
    retrieval: dict[str, Any]
    absent: dict[str, str]
    efficiency: dict[str, Any]
    distill: dict[str, Any]
    history: list[dict[str, float]]

    @classmethod
    def read(cls, params: Params, layout: Layout) -> Results:
        """Reads what the stages wrote.

        Raises:
            KdeovError: A file is missing, or shows another data set or other class names; names
                the stage that makes it.
        """
        dataset = Dataset.read(layout.images)
        scores = {name: _of(dataset, layout, name) for name in EVALUATIONS}
        absent = {name: found.pop(ABSENT) for name, found in scores.items() if ABSENT in found}
        if scores["zero_shot"]:
            require_same_names(params.zero_shot.class_names, scores["zero_shot"].get("class_names"))
        curve = layout.metrics / "history.csv"
        try:
            with open(curve, newline="") as file:
                history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        except OSError as error:
            raise KdeovError(f"{curve}: {error.strerror}; run `dvc repro distill`") from error
        return cls(
            run=RunRecord.read(layout.student),
            dataset=dataset,
            **scores,
            absent=absent,
            efficiency=read_json(layout.metrics / "efficiency.json", "efficiency"),
            distill=read_json(layout.metrics / "distill.json", "distill"),
            history=history,
        )

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The metrics of each evaluation that this data set has."""
        found = {name: getattr(self, name) for name in EVALUATIONS}
        return {name: scores for name, scores in found.items() if scores}

    @property
    def reranked(self) -> dict[str, Any]:
        """Of retrieval, empty where nothing was re-ranked."""
        return self.retrieval.get("reranked", {})

    def comparison(self) -> list[Row]:
        """The table of teacher against student."""
        return [
            Row(label, *(Value.of(scores.get(who), key) for who in COLUMNS))
            for name, scores in self.evaluations.items()
            for key, label in ROWS[name].items()
            if key in scores["student"]
        ]

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher has vectors of the test images, so that there are numbers of it."""
        return any("teacher" in scores for scores in self.evaluations.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table of teacher against student; the student alone where there is no other."""
        return COLUMNS if self.has_teacher else ("student",)

    def table(self) -> list[list[str]]:
        """The rows of that table as people read them: a label, and a cell for each column."""
        return [
            [
                row.label,
                *(
                    (percent if who == "retained" else score)(getattr(row, who))
                    for who in self.columns
                ),
            ]
            for row in self.comparison()
        ]

    def remarks(self) -> list[str]:
        """What is not in that table, and why."""
        lines = [f"No {TASKS[name]}: {reason}." for name, reason in self.absent.items()]
        if self.evaluations and not self.has_teacher:
            lines.append(
                "Without the teacher: it has no vectors of the test images to compare with."
            )
        if elsewhere := self.zero_shot.get("teacher_on"):
            top1 = score(Value.of(elsewhere, "top1"))
            lines.append(f"Zero-shot top-1 of the teacher on {elsewhere['split']}: {top1}.")
        if left_out := self.zero_shot.get("left_out"):
            lines.append(f"Images of classes that zero_shot.class_names leaves out: {left_out}.")
        return lines

    def protocols(self) -> list[str]:
        """What the numbers were measured with, a line an evaluation."""
        return [f"{s['protocol_id']}  {s['protocol']}" for s in self.evaluations.values()]

    def metrics(self) -> dict[str, float]:
        """Numbers under names that MLflow allows and groups.

        `zeroshot/top1` is the student's, `zeroshot/teacher_top1` the teacher's; of the teacher,
        shares and intervals there are the headlines alone.
        """
        values: dict[str, float] = {}
        for name, scores in self.evaluations.items():
            group = GROUPS.get(name, name)
            for key in ROWS[name]:
                if (own := Value.of(scores["student"], key)) is None:
                    continue
                values[f"{group}/{key}"] = own.value
                if key not in HEADLINES[name]:
                    continue
                if own.bounds:
                    values[f"{group}/{key}_low"], values[f"{group}/{key}_high"] = own.bounds
                for who in ("teacher", "retained"):
                    if (other := Value.of(scores.get(who), key)) is not None:
                        values[f"{group}/{who}_{key}"] = other.value
        for key in RERANKED:
            if self.reranked:
                values[f"retrieval/reranked_{key}"] = self.reranked[key]
                values[f"retrieval/reranked_gain_{key}"] = self.reranked[f"gain_{key}"]
        for who in ("student", "teacher", "reference"):
            for key, value in (self.efficiency[who] or {}).items():
                if not isinstance(value, str):
                    values[f"efficiency/{who}_{key}"] = value
        return values


def score(value: Value | None) -> str:
    """A share or a rank as people read it, `0.802 [0.778, 0.826]`; blank where there is none."""
    return _shown(value, "{:,.0f}" if value and value.rank else "{:.3f}")


def percent(value: Value | None) -> str:
    """A share of the teacher's score as people read it, `98.2% [95.1, 101.0]`."""
    text = _shown(value, "{:.1%}").replace("%,", ",").replace("%]", "]")
    # a teacher that scores 0 in some bootstrap_samples leaves a share without bounds, not one that is sure
    return f"{text} [no interval]" if value and not value.bounds else text


def gain(value: Value | None) -> str:
    """A difference of two shares as people read it, `+0.012 [-0.004, +0.028]`."""
    return _shown(value, "{:+.3f}")


def pace(speedup: float) -> str:
    """How many times faster one is than another, as people read it."""
    return f"{speedup:.1f}x faster" if speedup >= 1 else f"{1 / speedup:.1f}x slower"


def _shown(value: Value | None, form: str) -> str:
    if value is None:
        return ""
    bounds = f" [{', '.join(map(form.format, value.bounds))}]" if value.bounds else ""
    return form.format(value.value) + bounds


def _of(dataset: Dataset, layout: Layout, name: str) -> dict[str, Any]:
    """The metrics of a data set; empty where it has none, and there are none of another."""
    path = layout.metrics / f"{name}.json"
    found = read_json(path, name)
    if found and dataset.name not in found:
        raise KdeovError(f"{path}: nothing of {dataset.name}; run `dvc repro {name}`")
    return found.get(dataset.name, {})
