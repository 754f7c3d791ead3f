"""The pipeline of a run as inline SVG: what each stage read and made, with its counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.report.results import Results

LINE_LETTERS = 26  # of a box


@dataclass(frozen=True)
class Box:
    """A box of the diagram.

    Attributes:
        title: Its heading.
        lines: Facts, a line each.
        x: Left side, in units of the diagram.
        y: Upper side.
        width: Units.
        height: Units.
    """

    title: str
    lines: list[str]
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0

    def at(self, x: float, y: float, width: float, height: float) -> Box:
        """The box at a place."""
        return Box(self.title, self.lines, x, y, width, height)

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Lines as there is room for them, with the whole ones."""
        return [
            (line if len(line) <= LINE_LETTERS else f"{line[: LINE_LETTERS - 1]}…", line)
            for line in self.lines
        ]


@dataclass(frozen=True)
class Flow:
    """The diagram in one shape.

    Attributes:
        kind: `wide` or `tall`.
        width: Of the diagram, in units.
        height: Units.
        boxes: The stages.
        arrows: Paths of SVG.
    """

    kind: str
    width: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    arrows: list[str] = field(default_factory=list)


def flows(results: Results, rejected: int) -> list[Flow]:
    """The diagram for wide windows, and for narrow ones.

    Args:
        results: The results of a run.
        rejected: Inputs that `prepare` rejected.
    """
    models = [
        _images(results, rejected), _teacher(results), _embeddings(results), _student(results),
        _boxes(results), _export(results),
    ]  # fmt: skip
    tasks = _evaluations(results)
    return [_wide(models, tasks), _tall(models, tasks)]


def _images(results: Results, rejected: int) -> Box:
    samples, dataset = results.dataset.samples, results.dataset
    lines = [f"{samples['train']:,} for training"]
    lines.append(f"{samples['val']:,} val, {samples['test']:,} test")
    lines.append(f"{rejected:,} rejected")
    return Box(f"images: {dataset.name[:14]}", lines)


def _teacher(results: Results) -> Box:
    tower = results.efficiency["teacher"]
    size = [f"{_millions(tower['parameters'])} parameters"] if tower else []
    pixels = [f"sees {tower['image_size']} px"] if tower else []
    return Box("teacher, frozen", [results.run.teacher, *size, *pixels])


def _embeddings(results: Results) -> Box:
    embed, train = results.run.params["embed"], results.dataset.samples["train"]
    lines = [f"{embed['views'] * train:,} of views"]
    if count := embed["regions"]["count"]:
        lines.append(f"up to {count * train:,} of regions")
    return Box("teacher's embeddings", [*lines, "cached once, in float16"])


def _student(results: Results) -> Box:
    distill, trained = results.run.params["distill"], results.distill
    seen = trained["epochs"] * (trained["samples"] + trained["repeated_samples_per_epoch"])
    tower = results.efficiency["student"]
    return Box(
        f"student: {distill['backbone'].removeprefix('timm:')[:14]}",
        [
            f"{_millions(tower['parameters'])} parameters",
            f"{trained['epochs']} epochs, {seen:,} images",
            f"cosine {trained['val_cosine']:.3f} with teacher",
        ],
    )


def _boxes(results: Results) -> Box:
    if results.detection is None:
        return Box("box head", ["none for this data"])
    values = results.detection.values
    group = values[results.detection.groups[-1]]
    seen = f"{group['boxes_seen']:,} classes with boxes"
    return Box("box head", [seen, "on the student's trunk"])


def _export(results: Results) -> Box:
    if results.deployed is None:
        return Box("export", ["ONNX"])
    sizes = [f"{f.label.split(', ')[-1]}: {f.megabytes:.1f} MB" for f in results.deployed.forms[1:]]
    return Box("export: ONNX", sizes)


def _evaluations(results: Results) -> list[Box]:
    found: list[Box] = []
    if scores := results.zero_shot:
        lines = [f"{scores['classes']:,} classes", f"{scores['student']['count']:,} images"]
        found.append(Box("zero-shot", lines))
    if results.linear_probe:
        known = len(results.dataset.classes) - len(results.dataset.held_out)
        found.append(Box("linear probe", [f"{known:,} classes", "on embeddings"]))
    if scores := results.retrieval:
        counts: dict[str, Any] = scores["student"]
        found.append(
            Box("retrieval", [f"{counts['images']:,} images", f"{counts['texts']:,} texts"])
        )
    if results.detection is not None:
        values = results.detection.values
        objects = sum(values[g]["objects"] for g in results.detection.groups[-1:])
        found.append(Box("detection", [f"{values['classes']:,} names", f"{objects:,} objects"]))
    forms = len(results.deployed.forms) if results.deployed else 1
    return [*found, Box("efficiency", [f"{forms} forms", "on this CPU"])]


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _wide(models: list[Box], tasks: list[Box]) -> Flow:
    """Images and teacher, embeddings, student, box head and export from left to right; the
    evaluations below.
    """
    images, teacher, embeddings, student, head, export = models
    width, height, gap, low = 214, 92, 62, 112
    left = [10 + n * (width + gap) for n in range(4)]
    middle = 10 + low / 2
    placed = [
        images.at(left[0], 10, width, height),
        teacher.at(left[0], 10 + low, width, height),
        embeddings.at(left[1], middle, width, height),
        student.at(left[2], middle, width, height),
        head.at(left[3], 10, width, height),
        export.at(left[3], 10 + low, width, height),
    ]
    total = left[3] + width + 10
    top, side = 10 + low + height + 48, (total - 20 - 16 * (len(tasks) - 1)) / len(tasks)
    placed += [box.at(10 + n * (side + 16), top, side, 74) for n, box in enumerate(tasks)]
    center = middle + height / 2
    arrows = [
        _bend(left[0] + width, 10 + height / 2, left[1], center - 14),
        _bend(left[0] + width, 10 + low + height / 2, left[1], center + 14),
        _bend(left[1] + width, center, left[2], center),
        _bend(left[2] + width, center - 14, left[3], 10 + height / 2),
        _bend(left[2] + width, center + 14, left[3], 10 + low + height / 2),
    ]
    turn, start = top - 20, left[2] + width / 2
    arrows += [
        f"M{start:.0f} {middle + height:.0f}V{turn:.0f}H{box.x + side / 2:.0f}V{top - 2:.0f}"
        for box in placed[-len(tasks) :]
    ]
    return Flow("wide", total, top + 84, placed, arrows)


def _tall(models: list[Box], tasks: list[Box]) -> Flow:
    """The same from top to bottom, two boxes side by side."""
    images, teacher, embeddings, student, head, export = models
    half, gap, height, step = 180, 12, 92, 124
    whole, right = 2 * half + gap, half + gap
    placed = [
        images.at(2, 4, half, height),
        teacher.at(2 + right, 4, half, height),
        embeddings.at(2, 4 + step, whole, height),
        student.at(2, 4 + 2 * step, whole, height),
        head.at(2, 4 + 3 * step, half, height),
        export.at(2 + right, 4 + 3 * step, half, height),
    ]
    rows = -(-len(tasks) // 2)
    for number, box in enumerate(tasks):
        is_alone = number == len(tasks) - 1 and number % 2 == 0
        x, y = 2 + (number % 2) * right, 4 + 4 * step + (number // 2) * 86
        placed.append(box.at(x, y, whole if is_alone else half, 74))
    left, other, middle = 2 + half / 2, 2 + right + half / 2, 2 + whole / 2
    ends = [4 + n * step + height for n in range(4)]
    arrows = [_down(x, ends[n], ends[n] + step - height) for n, x in (
        (0, left), (0, other), (1, middle), (2, left), (2, other), (3, middle),
    )]  # fmt: skip
    return Flow("tall", whole + 4, 4 + 4 * step + rows * 86, placed, arrows)


def _bend(x: float, y: float, end_x: float, end_y: float) -> str:
    """An arrow to the right that bends half-way."""
    half = (x + end_x) / 2
    return f"M{x:.0f} {y:.0f}C{half:.0f} {y:.0f} {half:.0f} {end_y:.0f} {end_x - 2:.0f} {end_y:.0f}"


def _down(x: float, y: float, end_y: float) -> str:
    return f"M{x:.0f} {y:.0f}V{end_y - 2:.0f}"
