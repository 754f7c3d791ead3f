"""The source `scenes`: coloured, textured shapes on noisy backgrounds, drawn from a seed.

An image has one main object, which is its class, and up to two smaller ones. Each image follows
from (seed, split, index) alone, so any process can draw any of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter

from kdeov.errors import DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.config.source_params import ScenesParams
from pipeline.prepare.readers.base import Sample, Source

KEYS = (
    "size", "jpeg_quality", "captions", "colours", "shapes", "textures", "backgrounds", "held_out",
)  # fmt: skip
OVERSAMPLING = 2  # shapes are drawn larger and reduced, which smooths their edges


@dataclass(frozen=True)
class SceneObject:
    """A shape with its words and its box: left, top, right, bottom in pixels."""

    color: str
    shape: str
    texture: str
    box: tuple[int, int, int, int]


def scenes(path: Path, options: ScenesParams, seed: int, max_image_side: int | None) -> Source:
    """Lists generated scenes, whose size the description sets. All of its classes can be drawn, so
    they are classes of the data set, however few images are asked for.

    Raises:
        DataError: The description is missing or malformed.
    """
    drawing = Scenes(path, seed, {split: getattr(options, split) for split in SPLITS})
    inputs = {split: drawing.inputs(split) for split in SPLITS}
    objects = (drawing.classes, drawing.held_out_objects)
    return Source(inputs, drawing.make, drawing.classes, drawing.held_out, *objects)


class Scenes:
    """Draws scenes.

    Args:
        path: The YAML file that names colours, shapes, textures and backgrounds.
        seed: Seed of the images.
        counts: Number of images of each split.
    """

    def __init__(self, path: Path, seed: int, counts: dict[str, int]) -> None:
        try:
            self.world: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(
                f"{path}: no description of scenes ({' '.join(str(error).split())}); check "
                "prepare.path"
            ) from error
        _check(path, self.world)
        self.seed = seed
        self.counts = counts
        self.pairs = [(c, s) for c in self.world["colours"] for s in self.world["shapes"]]
        self.held_out_pairs = {(c, s) for c, s in self.world["held_out"]}
        self.training_pairs = [pair for pair in self.pairs if pair not in self.held_out_pairs]
        self.classes = [f"{color} {shape}" for color, shape in self.pairs]
        trained = set(self.training_pairs[: counts["train"]])  # they take turns
        self.held_out = [f"{c} {s}" for c, s in self.pairs if (c, s) not in trained]
        # small objects of a training image are of any training pair, however few images there are
        self.held_out_objects = [f"{c} {s}" for c, s in self.pairs if (c, s) in self.held_out_pairs]

    def identity(self) -> dict[str, Any]:
        """All that an image follows from, besides its split and number: not how many there are."""
        return {"world": self.world, "seed": self.seed}

    def inputs(self, split: str) -> Sequence[tuple[str, int]]:
        return [(split, index) for index in range(self.counts[split])]

    def make(self, item: tuple[str, int]) -> Sample:
        """Draws an image. Validation and test images use every class equally often."""
        split, index = item
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        pairs = self.training_pairs if split == "train" else self.pairs
        main = pairs[index % len(pairs)]
        size = self.world["size"]
        background = str(rng.choice(list(self.world["backgrounds"])))
        canvas = self._background(rng, background, size)
        objects = self._place(rng, main, pairs, size)
        for thing in reversed(objects):  # the main object is painted last, so nothing hides it
            self._paint(rng, canvas, thing)
        canvas = _add_noise(rng, canvas)
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=self.world["jpeg_quality"])
        return Sample(
            key=f"{split}-{index:07d}",
            source=f"scenes/{split}/{index}",
            jpeg=buffer.getvalue(),
            captions=[
                self._caption(rng, objects, background, brief=k == 0)
                for k in range(self.world["captions"])
            ],
            label=self.pairs.index(main),
            extra={
                "background": background,
                "objects": [
                    {"name": f"{o.color} {o.shape}", "texture": o.texture, "box": list(o.box)}
                    for o in objects
                ],
            },
        )

    def _background(self, rng: np.random.Generator, name: str, size: int) -> Image.Image:
        """A base colour with random blotches, so that no two images share their pixels."""
        base = np.array(self.world["backgrounds"][name], dtype=np.float32)
        blotches = rng.normal(0, 13, (6, 6, 3)).astype(np.float32) + rng.normal(0, 10, 3)
        layers = [Image.fromarray(blotches[..., c]) for c in range(3)]
        smooth = np.stack(
            [np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC)) for layer in layers],
            axis=-1,
        )
        return Image.fromarray(np.clip(base + smooth, 0, 255).astype(np.uint8))

    def _place(
        self,
        rng: np.random.Generator,
        main: tuple[str, str],
        pairs: list[tuple[str, str]],
        size: int,
    ) -> list[SceneObject]:
        """The main object, then up to two smaller ones that do not overlap it."""
        side = int(rng.uniform(0.6, 0.75) * size)
        left, top = (int(v) for v in rng.integers(0, size - side, 2))
        objects = [self._object(rng, main, (left, top, left + side, top + side))]
        for _ in range(int(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2]))):
            for _ in range(20):  # where no place is free, the image has fewer objects
                side = int(rng.uniform(0.2, 0.28) * size)
                left, top = (int(v) for v in rng.integers(0, size - side, 2))
                box = (left, top, left + side, top + side)
                if all(_apart(box, other.box) for other in objects):
                    pair = pairs[int(rng.integers(len(pairs)))]
                    objects.append(self._object(rng, pair, box))
                    break
        return objects

    def _object(
        self, rng: np.random.Generator, pair: tuple[str, str], box: tuple[int, int, int, int]
    ) -> SceneObject:
        return SceneObject(*pair, str(rng.choice(self.world["textures"])), box)

    def _paint(self, rng: np.random.Generator, canvas: Image.Image, item: SceneObject) -> None:
        side = item.box[2] - item.box[0]
        large = side * OVERSAMPLING
        mask = Image.new("L", (large, large), 0)
        OUTLINES[item.shape](ImageDraw.Draw(mask), large)
        mask = mask.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
        rgb = np.array(self.world["colours"][item.color], dtype=np.float32)
        rgb = np.clip(rgb * rng.uniform(0.85, 1.1) + rng.normal(0, 6, 3), 0, 255)
        fill = np.broadcast_to(rgb, (large, large, 3)).copy()
        fill[_texture(item.texture, large)] *= 0.7
        paint = Image.fromarray(fill.astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
        canvas.paste(paint, item.box[:2], mask.resize((side, side), Image.Resampling.BOX))

    def _caption(
        self, rng: np.random.Generator, objects: list[SceneObject], background: str, brief: bool
    ) -> str:
        """A caption. A brief one names only the main object, as class prompts do.

        The templates are data: another word changes every caption, and so all shards.
        """

        def phrase(item: SceneObject) -> str:
            texture = (
                "" if brief or (item.texture == "plain" and rng.random() < 0.7) else item.texture
            )
            shape = str(rng.choice(self.world["shapes"][item.shape]))
            words = " ".join(w for w in (texture, item.color, shape) if w)
            return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

        names = [phrase(o) for o in objects]
        if brief:
            return str(
                rng.choice(["a photo of {}.", "{}", "a picture of {}.", "there is {}."])
            ).format(names[0])
        if len(names) == 1:
            scene = names[0]
        elif len(names) == 2:
            link = str(rng.choice(["and", "with", _relation(objects[0], objects[1])]))
            scene = f"{names[0]} {link} {names[1]}"
        else:
            scene = f"{names[0]}, {names[1]} and {names[2]}"
        form = ["{} on a {} background", "a photo of {}, {} background", "a {1} picture with {0}"]
        return str(rng.choice(form)).format(scene, background)


def _check(path: Path, world: Any) -> None:
    """Raises `DataError` where a description is incomplete or names an unknown shape."""
    if not isinstance(world, dict):
        raise DataError(f"{path}: no description of scenes; check prepare.path")
    if missing := [key for key in KEYS if key not in world]:
        raise DataError(f"{path}: {', '.join(missing)} missing; add them")
    if unknown := [shape for shape in world["shapes"] if shape not in OUTLINES]:
        raise DataError(
            f"{path}: shape {unknown[0]!r} is unknown; choose from {', '.join(OUTLINES)}"
        )


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def _relation(a: SceneObject, b: SceneObject) -> str:
    dx = (a.box[0] + a.box[2]) - (b.box[0] + b.box[2])
    dy = (a.box[1] + a.box[3]) - (b.box[1] + b.box[3])
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _add_noise(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) + rng.normal(0, 5, (*image.size[::-1], 1))
    noisy = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return noisy.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.6))))


def _texture(name: str, size: int) -> np.ndarray:
    """Mask of the darker paint, boolean [size, size]."""
    y, x = np.mgrid[:size, :size]
    period = max(size // 6, 4)
    if name == "striped":
        return (x + y) % period < period // 2
    if name == "dotted":
        half = period / 2
        return np.hypot(x % period - half, y % period - half) < period * 0.32
    return np.zeros((size, size), dtype=bool)


def _polygon(draw: ImageDraw.ImageDraw, size: int, points: list[tuple[float, float]]) -> None:
    draw.polygon([(x * size, y * size) for x, y in points], fill=255)


def _circle(draw: ImageDraw.ImageDraw, size: int) -> None:
    draw.ellipse((size * 0.05, size * 0.05, size * 0.95, size * 0.95), fill=255)


def _square(draw: ImageDraw.ImageDraw, size: int) -> None:
    draw.rectangle((size * 0.12, size * 0.12, size * 0.88, size * 0.88), fill=255)


def _triangle(draw: ImageDraw.ImageDraw, size: int) -> None:
    _polygon(draw, size, [(0.5, 0.06), (0.95, 0.9), (0.05, 0.9)])


def _star(draw: ImageDraw.ImageDraw, size: int) -> None:
    angles = [(math.pi * k / 5 - math.pi / 2, 0.48 if k % 2 == 0 else 0.2) for k in range(10)]
    _polygon(draw, size, [(0.5 + r * math.cos(a), 0.5 + r * math.sin(a)) for a, r in angles])


def _cross(draw: ImageDraw.ImageDraw, size: int) -> None:
    draw.rectangle((size * 0.36, size * 0.06, size * 0.64, size * 0.94), fill=255)
    draw.rectangle((size * 0.06, size * 0.36, size * 0.94, size * 0.64), fill=255)


def _ring(draw: ImageDraw.ImageDraw, size: int) -> None:
    _circle(draw, size)
    draw.ellipse((size * 0.28, size * 0.28, size * 0.72, size * 0.72), fill=0)


def _heart(draw: ImageDraw.ImageDraw, size: int) -> None:
    draw.ellipse((size * 0.05, size * 0.1, size * 0.53, size * 0.58), fill=255)
    draw.ellipse((size * 0.47, size * 0.1, size * 0.95, size * 0.58), fill=255)
    _polygon(draw, size, [(0.08, 0.45), (0.92, 0.45), (0.5, 0.95)])


def _diamond(draw: ImageDraw.ImageDraw, size: int) -> None:
    _polygon(draw, size, [(0.5, 0.03), (0.84, 0.5), (0.5, 0.97), (0.16, 0.5)])


OUTLINES: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "diamond": _diamond,
}
