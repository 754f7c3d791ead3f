"""The loss by step as a curve of few points, read from the step log of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.storage.storage import Storage
from pipeline.training.step_log import Step, read_file, read_steps

POINTS_PER_EPOCH = 100
"""Bound on the points of an epoch."""

Points = list[tuple[int, float]]
"""The number of completed steps of the run, and the mean loss of the last of them."""


def step_points(steps: Iterable[Step], steps_per_epoch: int) -> Points:
    """The curve of some steps of a run.

    Each epoch has at most `POINTS_PER_EPOCH` windows of equally many steps, the last one perhaps
    fewer; a point is the mean loss of a window. Where windows begin follows from the epoch alone,
    so a run that was resumed has the points of one that was not.

    Args:
        steps: Steps in order. A window that they hold in part has no point.
        steps_per_epoch: Steps of every epoch.
    """
    width = -(-steps_per_epoch // POINTS_PER_EPOCH)
    points: Points = []
    window: list[float] = []
    for step in steps:
        if step.step % width == 0:
            window = []
        window.append(step.loss)
        done = step.step + 1
        if done % width == 0 or done == steps_per_epoch:
            size = (done - 1) % width + 1
            if len(window) == size:
                points.append((step.epoch * steps_per_epoch + done, sum(window) / size))
            window = []
    return points


def whole_curve(folder: Storage) -> Points:
    """The curve of a run that has ended; empty where its step log is elsewhere.

    Raises:
        DataError: The log is damaged or edited.
        StorageError: The storage cannot be read.
    """
    steps = read_steps(folder)
    return step_points(steps, 1 + max(step.step for step in steps)) if steps else []


class StepCurve:
    """The curve of a run that is being trained; reads each file of the step log once.

    Args:
        folder: Folder of the step log.
        steps_per_epoch: Steps of every epoch.
    """

    def __init__(self, folder: Storage, steps_per_epoch: int) -> None:
        self.folder, self.steps_per_epoch = folder, steps_per_epoch
        self._read: set[str] = set()
        self._rest: dict[int, Step] = {}  # of windows that have begun, by number in the run

    def __call__(self) -> Points:
        """The points that came since the last call.

        Raises:
            DataError: The log is damaged or edited.
            StorageError: The storage cannot be read.
        """
        new = [name for name in self.folder.names() if name not in self._read]
        for name in new:
            for step in read_file(self.folder, name):
                self._rest[step.epoch * self.steps_per_epoch + step.step] = step
            self._read.add(name)
        steps = self._in_order()
        points = step_points(steps, self.steps_per_epoch)
        if points:
            self._rest = {n: step for n, step in self._rest.items() if n >= points[-1][0]}
        return points

    def _in_order(self) -> Sequence[Step]:
        return [self._rest[number] for number in sorted(self._rest)]
