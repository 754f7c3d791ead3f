"""The cards at the top of the report: its headline numbers with their intervals."""

from __future__ import annotations

from pipeline.report.results import (
    MetricValue,
    Results,
    format_percent,
    format_score,
    format_speedup,
    is_certain,
)


def cards(results: Results) -> list[dict[str, str]]:
    """Cards with `value`, `bounds` (empty where there is no interval), `label` and `note`."""
    found = []
    for scores, key, label in (
        (results.zero_shot, "top1", "zero-shot top-1"),
        (results.retrieval, "i2t_r5", "image to text R@5"),
        (results.retrieval, "t2i_r5", "text to image R@5"),
    ):
        own = MetricValue.of(scores.get("student"), key)
        if own is None or is_certain(key, scores):
            continue
        value, _, bounds = format_score(own).partition(" ")
        teacher, share = (
            MetricValue.of(scores.get(column), key) for column in ("teacher", "retained")
        )
        ceiling = results.ceilings().get(key) if scores is results.retrieval else None
        notes = [f"ceiling {ceiling:.3f}"] if ceiling else []
        notes += [f"teacher {teacher.value:.3f}"] if teacher else []
        notes += [f"retained {format_percent(share)}"] if share else []
        found.append({"value": value, "bounds": bounds, "label": label, "note": ", ".join(notes)})
    if results.detection is not None and (card := results.detection.card()):
        found.append(card)
    reference = results.efficiency["reference"]
    millions = results.efficiency["student"]["parameters"] / 1e6
    ratio, direction = format_speedup(reference["speedup"]).replace("x", "×", 1).split()
    speed = f"one image of {reference['image_size']} px on this CPU"
    for value, label, note in (
        (f"{millions:.2f} M", "parameters", "in the image tower"),
        (ratio, f"{direction} than {reference['name']}", speed),
    ):
        found.append({"value": value, "bounds": "", "label": label, "note": note})
    return found
