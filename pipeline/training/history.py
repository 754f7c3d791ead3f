"""The history of a run as a table, which DVC plots."""

from __future__ import annotations

import csv
import io

SPEED_COLUMNS = (
    "images_per_s",
    "data_wait",
    "workers",
    "on_gpu",
)  # depend on machines, not on the run


def history_csv(history: list[dict[str, float]]) -> str:
    """The history without the columns of speed, which only MLflow shows."""
    names = [name for name in history[0] if name not in SPEED_COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
