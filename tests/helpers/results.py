"""Files that the evaluations wrote, as tests read and change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.paths import Layout
from pipeline.storage.checked import read_checked_json, write_checked_json


def read_metrics(paths: Layout, name: str) -> dict[str, Any]:
    """The metrics of a stage on the data set `scenes`."""
    return json.loads((paths.metrics / f"{name}.json").read_text(encoding="utf-8"))["scenes"]


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file in place, as its stage could have written it: with a digest that fits."""
    values = read_checked_json(path)
    edit(values)
    write_checked_json(path, values)


def remove_labels(paths: Layout) -> None:
    """Makes the data set one without labels."""
    edit_json(paths.images / "dataset.json", lambda v: v.update(classes=[], held_out=[]))


def untrain_fusion(paths: Layout) -> None:
    """Makes the student one whose fusion was not trained."""

    def untrain(record: dict[str, Any]) -> None:
        distill = record["params"]["distill"]
        distill["losses"]["fusion"] = 0.0
        distill["fusion_epochs"] = 0

    edit_json(paths.student / "run.json", untrain)
