"""Curves of two runs as SVG in the colors of the page, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 28
TICKS = 3


@dataclass(frozen=True)
class Tick:
    """A mark of an axis.

    Attributes:
        at: Its place in the drawing.
        text: Its label.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A curve of two runs, ready to be drawn.

    Attributes:
        title: Name of the curve.
        lines: Points of each run, as SVG has them; empty where it has none.
        ends: The last point of each run.
        x_ticks: Epochs.
        y_ticks: Values.
    """

    title: str
    lines: tuple[str, str]
    ends: tuple[tuple[float, float] | None, tuple[float, float] | None]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def chart_of(title: str, both: tuple[Sequence[float], Sequence[float]]) -> Chart:
    """The chart of a curve of two runs, on one scale.

    Args:
        title: Name of the curve.
        both: Values of each run by epoch, of which one has a value.
    """
    known = [value for values in both for value in values]
    low, high = min(known), max(known)
    epochs = max(map(len, both))
    span = (high - low) or 1.0

    def place(epoch: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (epoch / max(epochs - 1, 1))
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)
        return round(x, 1), round(y, 1)

    points = [[place(epoch, value) for epoch, value in enumerate(values)] for values in both]
    lines = [" ".join(f"{x},{y}" for x, y in line) for line in points]
    ends = [line[-1] if line else None for line in points]
    steps = [number / (TICKS - 1) for number in range(TICKS)]
    y_ticks = [Tick(place(0, low + s * span)[1], f"{low + s * span:.3g}") for s in steps]
    numbers = dict.fromkeys(round(s * (epochs - 1)) for s in steps)
    x_ticks = [Tick(place(number, low)[0], str(number + 1)) for number in numbers]
    return Chart(title, (lines[0], lines[1]), (ends[0], ends[1]), x_ticks, y_ticks)
