"""The published files of a run, read together: for the report, for MLflow and for the console."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from kdeov.errors import KdeovError
from pipeline.dataset import Dataset
from pipeline.files import read_json
from pipeline.layout import Layout
from pipeline.run import RunRecord

ZERO_SHOT_ROWS = {
    "top1": "zero-shot top-1",
    "top5": "zero-shot top-5",
    "mean_per_class": "zero-shot mean per class",
    "seen_top1": "zero-shot top-1, seen classes",
    "heldout_top1": "zero-shot top-1, held-out classes",
}
COUNTS = ("count", "images", "texts")
RETRIEVAL_ROWS = {
    f"{way}_{name}": f"{text}, {label}"
    for way, text in (("i2t", "picture to text"), ("t2i", "text to picture"))
    for name, label in (
        ("r1", "R@1"),
        ("r5", "R@5"),
        ("r10", "R@10"),
        ("median_rank", "median rank"),
    )
}


@dataclass(frozen=True)
class Results:
    """All that a run has to show.

    Attributes:
        run: The student's record.
        dataset: What it was tested on.
        zero_shot: Of this data set, empty where it has no labels.
        retrieval: Of this data set.
        efficiency: Sizes and latencies.
        distill: The end of training.
        history: One row an epoch.
    """

    run: RunRecord
    dataset: Dataset
    zero_shot: dict[str, Any]
    retrieval: dict[str, Any]
    efficiency: dict[str, Any]
    distill: dict[str, Any]
    history: list[dict[str, float]]

    @classmethod
    def read(cls, layout: Layout) -> Results:
        """Reads what the stages wrote.

        Raises:
            KdeovError: A file is missing; names the stage that makes it.
        """
        dataset = Dataset.read(layout.images)
        metrics = {
            name: read_json(layout.metrics / f"{name}.json", name)
            for name in ("zero_shot", "retrieval", "efficiency", "distill")
        }
        curve = layout.metrics / "history.csv"
        try:
            with open(curve, newline="") as file:
                history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        except OSError as error:
            raise KdeovError(f"{curve}: {error.strerror}; run `dvc repro distill`") from error
        if dataset.name not in metrics["retrieval"]:
            raise KdeovError(
                f"{layout.metrics / 'retrieval.json'}: nothing of {dataset.name}; run `dvc repro "
                "retrieval`"
            )
        return cls(
            run=RunRecord.read(layout.student),
            dataset=dataset,
            zero_shot=metrics["zero_shot"].get(dataset.name, {}),
            retrieval=metrics["retrieval"][dataset.name],
            efficiency=metrics["efficiency"],
            distill=metrics["distill"],
            history=history,
        )

    def comparison(self) -> list[tuple[str, float, float, float | None]]:
        """Rows of the table: what, teacher, student, retained share."""
        return [
            (label, scores["teacher"][key], scores["student"][key], scores["retained"][key])
            for scores, rows in ((self.zero_shot, ZERO_SHOT_ROWS), (self.retrieval, RETRIEVAL_ROWS))
            if scores
            for key, label in rows.items()
            if key in scores["teacher"]
        ]

    def metrics(self) -> dict[str, float]:
        """Every number under a name that MLflow allows and groups.

        `zeroshot/top1` is the student's, `zeroshot/teacher_top1` the teacher's.
        """
        values: dict[str, float] = {}
        for group, scores in (("zeroshot", self.zero_shot), ("retrieval", self.retrieval)):
            for who, prefix in (
                ("student", ""),
                ("teacher", "teacher_"),
                ("retained", "retained_"),
                ("reranked", "reranked_"),
            ):
                for key, value in scores.get(who, {}).items():
                    if value is not None and key not in COUNTS:
                        values[f"{group}/{prefix}{key}"] = value
        for who in ("student", "teacher", "reference"):
            for key, value in self.efficiency[who].items():
                if not isinstance(value, str):
                    values[f"efficiency/{who}_{key}"] = value
        return values
