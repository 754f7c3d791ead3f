"""Names of evaluations and their metrics, as people read them."""

from __future__ import annotations

TASKS = {
    "zero_shot": "zero-shot classification",
    "linear_probe": "linear probe",
    "retrieval": "retrieval",
}
METRIC_LABELS = {
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
        f"{direction}_{name}": f"{text}, {label}"
        for direction, text in (("i2t", "image to text"), ("t2i", "text to image"))
        for name, label in (
            ("r1", "R@1"),
            ("r5", "R@5"),
            ("r10", "R@10"),
            ("median_rank", "median rank"),
        )
    },
}
