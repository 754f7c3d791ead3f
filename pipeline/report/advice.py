"""A warning where the student is far under its teacher, with the params to change."""

from __future__ import annotations

from math import ceil

from pipeline.report.results import METRIC_LABELS, MetricValue, Results

FAR_UNDER = 0.5  # of the teacher's margin over chance
ENOUGH_STEPS = 1000


def warnings(results: Results) -> list[str]:
    """At most one warning: a student that has less than half of its teacher's margin over chance,
    in one of zero-shot top-1, linear probe top-1 and the recalls at 5; the widest gap is named.

    Args:
        results: The results of a run.
    """
    gaps = [gap for metric in _chances(results) if (gap := _gap(results, *metric)) is not None]
    if not gaps:
        return []
    _, text = min(gaps)
    return [f"The student is far under its teacher: {text}. {_cure(results)}"]


def _chances(results: Results) -> list[tuple[str, str, float]]:
    """Evaluation, metric, and the value of a model that knows nothing."""
    found = []
    if classes := results.zero_shot.get("classes"):
        found.append(("zero_shot", "top1", 1 / classes))
    if results.linear_probe:
        trained = len(results.dataset.classes) - len(results.dataset.held_out)
        found.append(("linear_probe", "top1", 1 / trained))
    if results.retrieval:
        share = min(1.0, 5 / results.retrieval["student"]["images"])
        found += [("retrieval", key, share) for key in ("i2t_r5", "t2i_r5")]
    return found


def _gap(results: Results, task: str, key: str, chance: float) -> tuple[float, str] | None:
    """The student's share of the teacher's margin over chance, and a text; None if the share is
    large enough, or if the teacher is not better than chance.
    """
    scores = results.evaluations[task]
    teacher, student = (MetricValue.of(scores.get(name), key) for name in ("teacher", "student"))
    if teacher is None or student is None:
        return None
    low = teacher.bounds[0] if teacher.bounds else teacher.value
    if low <= chance:
        return None
    share = (student.value - chance) / (teacher.value - chance)
    text = (
        f"{METRIC_LABELS[task][key]} is {student.value:.3f}, the teacher's {teacher.value:.3f}, "
        f"chance {chance:.3f}"
    )
    return (share, text) if share < FAR_UNDER else None


def _cure(results: Results) -> str:
    distill, trained = results.run.params["distill"], results.distill
    samples = trained["samples"] + trained["repeated_samples_per_epoch"]
    steps_per_epoch = max(1, samples // distill["global_batch_size"])
    steps = trained["epochs"] * steps_per_epoch
    if steps < ENOUGH_STEPS:
        goal = max(ENOUGH_STEPS, 2 * steps)
        return (
            f"It was trained for {steps} steps: raise distill.epochs from {trained['epochs']} to "
            f"{ceil(goal / steps_per_epoch)} for {goal:,} steps."
        )
    cures = ["raise distill.epochs or distill.image_size", "choose a larger distill.backbone"]
    if distill.get("backbone_weights") is None:
        cures.insert(0, "set distill.backbone_weights to pretrained weights")
    return f"It was trained for {steps:,} steps: {', '.join(cures[:-1])}, or {cures[-1]}."
