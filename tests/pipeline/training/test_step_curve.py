"""The loss by step has few points, the same ones however often training was resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.storage import open_storage
from pipeline.training.step_curve import POINTS_PER_EPOCH, StepCurve, step_points, whole_curve
from pipeline.training.step_log import Step, StepLog


def steps(epochs: int, per_epoch: int) -> list[Step]:
    return [
        Step(epoch, step, float(epoch * per_epoch + step), "", 1)
        for epoch in range(epochs)
        for step in range(per_epoch)
    ]


@pytest.mark.parametrize("per_epoch", [1, 7, 100, 101, 250, 1234])
def test_an_epoch_has_a_bounded_number_of_points_and_ends_with_one(per_epoch: int) -> None:
    points = step_points(steps(2, per_epoch), per_epoch)
    numbers = [number for number, _ in points]
    first = [number for number in numbers if number <= per_epoch]
    assert len(first) == len(numbers) / 2 <= POINTS_PER_EPOCH
    assert numbers == sorted(set(numbers)) and numbers[-1] == 2 * per_epoch
    assert first[-1] == per_epoch


def test_a_point_is_the_mean_of_its_steps_and_short_epochs_are_not_thinned() -> None:
    assert step_points(steps(1, 3), 3) == [(1, 0.0), (2, 1.0), (3, 2.0)]
    points = step_points(steps(1, 201), 201)  # windows of three steps
    assert points[:2] == [(3, 1.0), (6, 4.0)] and points[-1] == (201, 199.0)


def write(folder: Path, taken: list[Step], per_epoch: int) -> None:
    """Writes a file of the log, as a checkpoint after these steps does."""
    log = StepLog(open_storage(str(folder)))
    for step in taken:
        log.add(step.epoch, step.step, step.loss, 0)
    log.write(taken[0].epoch * per_epoch + taken[0].step)


def test_a_run_that_is_watched_has_the_points_of_the_whole_one_once(tmp_path: Path) -> None:
    taken, found = steps(2, 250), []
    curve = StepCurve(open_storage(str(tmp_path)), 250)
    assert curve() == []
    for first, last in ((0, 100), (100, 251), (251, 252), (252, 500)):
        write(tmp_path, taken[first:last], 250)
        found += curve()
        assert curve() == []
    assert found == whole_curve(open_storage(str(tmp_path))) == step_points(taken, 250)


def test_steps_taken_again_after_a_death_give_no_point_twice(tmp_path: Path) -> None:
    taken = steps(1, 250)
    write(tmp_path, taken[:100], 250)
    first = StepCurve(open_storage(str(tmp_path)), 250)()
    write(tmp_path, taken[:100], 250)  # the checkpoint was lost, not the log
    write(tmp_path, taken[100:], 250)
    whole = whole_curve(open_storage(str(tmp_path)))
    assert whole[: len(first)] == first and whole == step_points(taken, 250)


def test_an_edited_log_is_named(tmp_path: Path, complains: Any) -> None:
    write(tmp_path, steps(1, 4), 4)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b"0,4,1.0,,1\n")
    with complains(file, "delete it"):
        whole_curve(open_storage(str(tmp_path)))


def test_a_run_without_a_log_has_no_curve(tmp_path: Path) -> None:
    assert whole_curve(open_storage(str(tmp_path / "steps"))) == []
