"""The deployed forms of the student and the cost of INT8, as report, MLflow and `kdeov summary`
show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMS = {"torch": "PyTorch, eager", "onnx": "ONNX Runtime, float32", "int8": "ONNX Runtime, INT8"}
SHORT = {"torch": "PyTorch", "onnx": "ONNX", "int8": "INT8"}
COSTS = {
    "zero_shot": {"top1": "zero-shot top-1"},
    "retrieval": {"i2t_r5": "image to text R@5", "t2i_r5": "text to image R@5"},
}


@dataclass(frozen=True)
class DeployedForm:
    """A row of the table of deployed forms.

    Attributes:
        form: `torch`, `onnx` or `int8`.
        megabytes: Size of its file.
        latencies: Milliseconds an image, by column; the first one is of one image on one thread.
    """

    form: str
    megabytes: float
    latencies: list[float]

    @property
    def label(self) -> str:
        """Name of the form."""
        return FORMS[self.form]


@dataclass(frozen=True)
class Int8Cost:
    """The difference that INT8 makes to a metric.

    Attributes:
        key: Key of the metric.
        label: Name of the metric.
        gain: Share with INT8 minus that with float32.
        bounds: The 95% interval of the gain, (low, high).
    """

    key: str
    label: str
    gain: float
    bounds: tuple[float, float]

    @property
    def points(self) -> str:
        """In percentage points, as `-0.4 [-1.2, +0.4]`."""
        low, high = (f"{100 * bound:+.1f}" for bound in self.bounds)
        return f"{100 * self.gain:+.1f} [{low}, {high}]"


@dataclass(frozen=True)
class Deployed:
    """The entry `deployed` of `metrics/efficiency.json`.

    Attributes:
        image_size: Side of the student's images, pixels.
        batch_size: Images of a batch.
        columns: Headings of the latencies.
        forms: Rows, without forms that the export lacks.
        costs: Costs of INT8; empty where none is known.
    """

    image_size: int
    batch_size: int
    columns: list[str]
    forms: list[DeployedForm]
    costs: list[Int8Cost]

    @classmethod
    def of(cls, efficiency: Mapping[str, Any]) -> Deployed | None:
        """Reads the entry; None in a file of a version without it."""
        values = efficiency.get("deployed")
        if values is None:
            return None
        threads = {"one_thread": "1 thread"}
        if values["threads"] > 1:
            threads["all_threads"] = f"{values['threads']} threads"
        size: int = values["batch_size"]
        batches = {1: ""} | ({size: ", batch"} if size > 1 else {})
        forms = [
            DeployedForm(
                form,
                found["file_bytes"] / 1e6,
                [found["latency_ms"][name][str(b)] / b for name in threads for b in batches],
            )
            for form in FORMS
            if (found := values["forms"].get(form)) is not None
        ]
        columns = [f"{count}{batch}" for count in threads.values() for batch in batches.values()]
        return cls(values["image_size"], size, columns, forms, _costs(values["int8_cost"] or {}))

    def cost(self) -> str:
        """What INT8 costs, in one sentence."""
        if all(form.form != "int8" for form in self.forms):
            return "The export has no INT8 file."
        if not self.costs:
            return "The test split has neither labels nor captions that show what INT8 costs."
        changes = [f"{cost.label} {cost.points}" for cost in self.costs]
        return f"INT8 minus float32, in points: {'; '.join(changes)}."

    def line(self) -> str:
        """Latencies on one thread, sizes, and the cost of INT8, in one line."""
        forms = [
            f"{SHORT[form.form]} {form.latencies[0]:.1f} ms and {form.megabytes:.1f} MB"
            for form in self.forms
        ]
        where = f"one image of {self.image_size} px on one thread"
        return f"Deployed, {where}: {', '.join(forms)}. {self.cost()}"

    def metrics(self) -> dict[str, float]:
        """For MLflow: latency of one image on one thread and size of each exported file, and gains
        of INT8.
        """
        values: dict[str, float] = {}
        for form in self.forms:
            if form.form != "torch":
                values[f"efficiency/{form.form}_latency_ms"] = form.latencies[0]
                values[f"efficiency/{form.form}_megabytes"] = form.megabytes
        return values | {f"efficiency/int8_gain_{cost.key}": cost.gain for cost in self.costs}


def _costs(int8_cost: Mapping[str, Any]) -> list[Int8Cost]:
    costs = []
    for task, labels in COSTS.items():
        if scores := int8_cost.get(task):
            for key, label in labels.items():
                name = f"gain_{key}"
                low, high = scores["interval"][name]
                costs.append(Int8Cost(key, label, scores[name], (low, high)))
    return costs
