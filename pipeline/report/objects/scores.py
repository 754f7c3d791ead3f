"""The metrics of detection: rows of tables, and values for MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROUPS = {
    "base": "base",
    "held_out": "held out",
    "transfer": "transfer",
    "all": "all",
}
"""Groups of classes in the order of the columns, and their names there."""
PRECISION_ROWS = {
    "ap50": "AP50",
    "ap": "AP",
    "ap75": "AP75",
    "ar": "AR",
    "ar50_10": "any class: AR50@10",
    "ar_100": "any class: AR@100",
}
TRUE_BOX_ROWS = {
    "student": "true boxes: student top-1",
    "teacher": "true boxes: teacher top-1",
    "retained": "true boxes: retained",
}
TRANSFER_REMARK = (
    "Boxes of {count} held-out classes trained the detector's trunk, neck or head, so their column "
    "says transfer: what it finds there is not new to it."
)


@dataclass(frozen=True)
class Cell:
    """A value with its 95% interval, both as text."""

    value: str
    bounds: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.bounds}".strip()

    @classmethod
    def of(cls, scores: dict[str, Any], key: str, form: str = "{:.3f}") -> Cell:
        """A metric by its key; empty where it has no value."""
        if scores.get(key) is None:
            return cls("")
        bounds = scores.get("interval", {}).get(key)
        ends = "" if bounds is None else f"[{', '.join(map(form.format, bounds))}]"
        return cls(form.format(scores[key]), ends)


@dataclass(frozen=True)
class DetectionScores:
    """The metrics of a data set in `metrics/detection.json`.

    Attributes:
        values: What the stage wrote.
    """

    values: dict[str, Any]

    @property
    def groups(self) -> list[str]:
        """The groups of classes that there are."""
        return [name for name in GROUPS if name in self.values]

    @property
    def columns(self) -> list[str]:
        """Names of the groups."""
        return [GROUPS[name] for name in self.groups]

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """The rows of the table: a label, and a cell for each group."""
        groups = [self.values[name] for name in self.groups]
        rows = [
            (label, [Cell.of(group, key) for group in groups])
            for key, label in PRECISION_ROWS.items()
        ]
        boxes = [self.values["true_boxes"].get(name, {}) for name in self.groups]
        for key, label in TRUE_BOX_ROWS.items():
            form = "{:.1%}" if key == "retained" else "{:.3f}"
            rows.append((label, [Cell.of(group.get(key) or {}, "top1", form) for group in boxes]))
        for key, label in (("classes_with_objects", "classes"), ("objects", "objects")):
            rows.append((label, [Cell(f"{group[key]:,}") for group in groups]))
        seen = [Cell(f"{group['boxes_seen']:,} of {group['classes']:,}") for group in groups]
        rows.append(("classes seen with boxes", seen))
        return [row for row in rows if any(map(str, row[1]))]

    def cells(self) -> list[list[str]]:
        """The rows of the table as text."""
        return [[label, *map(str, cells)] for label, cells in self.rows()]

    def remarks(self) -> list[str]:
        """Sentences on what the numbers mean, and on what was left out."""
        lines = []
        if transfer := self.values.get("transfer"):
            lines.append(TRANSFER_REMARK.format(count=transfer["classes"]))
        left_out = [f"{count:,} {what}" for what, count in self.values["left_out"].items() if count]
        if left_out:
            lines.append(f"Detection: the test images have {', '.join(left_out)}.")
        return lines

    def protocol(self) -> str:
        """Protocol id and protocol, in one line."""
        return f"{self.values['protocol_id']}  {self.values['protocol']}"

    def card(self) -> dict[str, str] | None:
        """The card of the report: AP50 of base classes, beside that of the others."""
        first, *others = self.groups[:-1] or self.groups
        cell = Cell.of(self.values[first], "ap50")
        if not cell.value:
            return None
        notes = [(GROUPS[name], Cell.of(self.values[name], "ap50").value) for name in others]
        note = ", ".join(f"{name} {value}" for name, value in notes if value)
        label = f"AP50 of {GROUPS[first]} objects"
        return {"value": cell.value, "bounds": cell.bounds, "label": label, "note": note}

    def markdown(self) -> list[str]:
        """The table and its protocol, for the description of a run in MLflow."""
        head = [
            f"| detection | {' | '.join(self.columns)} |",
            f"|---|{'---:|' * len(self.columns)}",
        ]
        rows = [f"| {label} | {' | '.join(map(str, cells))} |" for label, cells in self.rows()]
        remarks = [line for remark in self.remarks() for line in ("", remark)]
        return ["", *head, *rows, *remarks, "", f"- `{self.protocol()}`"]

    def metrics(self) -> dict[str, float]:
        """A few values, under names that MLflow groups."""
        found: dict[str, float] = {}
        for name in self.groups:
            group, prefix = self.values[name], f"detection/{name}"
            if group.get("ap50") is None:
                continue
            found[f"{prefix}_ap50"] = group["ap50"]
            if bounds := group["interval"].get("ap50"):
                found[f"{prefix}_ap50_low"], found[f"{prefix}_ap50_high"] = bounds
            if name == "all":
                continue
            found[f"{prefix}_ar50_10"] = group["ar50_10"]
            found[f"{prefix}_true_boxes_top1"] = self.values["true_boxes"][name]["student"]["top1"]
        return found
