"""The classes of annotated objects: those held out of supervision, and doubtful boxes by name."""

from __future__ import annotations

import difflib
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.texts import class_name
from pipeline.console import printable
from pipeline.prepare.readers.base import Rejected, warn_of_some
from pipeline.prepare.readers.image_files import ImageFile
from pipeline.prepare.sources.coco_instances import Instances

logger = logging.getLogger(__name__)

OPTION = "prepare.coco.held_out_objects"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


# the split of Bansal et al., 2018, arXiv:1804.04340, as open-vocabulary detectors report it
OV_COCO_BASE = _names(
    "person, bicycle, car, motorcycle, train, truck, boat, bench, bird, horse, sheep, bear, zebra, "
    "giraffe, backpack, handbag, suitcase, frisbee, skis, kite, surfboard, bottle, fork, spoon, "
    "bowl, banana, apple, sandwich, orange, broccoli, carrot, pizza, donut, chair, bed, toilet, "
    "tv, laptop, mouse, remote, microwave, oven, toaster, refrigerator, book, clock, vase, "
    "toothbrush"
)
OV_COCO_HELD_OUT = _names(
    "airplane, bus, cat, dog, cow, elephant, umbrella, tie, snowboard, skateboard, cup, knife, "
    "cake, couch, keyboard, sink, scissors"
)


def choose_objects(
    tables: Sequence[Instances], choice: str | list[str] | None
) -> tuple[list[str], list[str]]:
    """The object classes of a data set, and those held out.

    Args:
        tables: Its instances files. A class of any is a class of the data set.
        choice: The option `held_out_objects`.

    Raises:
        ConfigError: A name of the list is not a class, or stands twice.
        DataError: The rare classes of LVIS are wanted, and no category has a frequency.
    """
    classes = list(dict.fromkeys(name for table in tables for name in table.classes))
    if choice is None:
        return classes, []
    if choice == "ov-coco":
        chosen = {*OV_COCO_BASE, *OV_COCO_HELD_OUT}
        warn_of_some("no category in the instances files", chosen - {*classes}, len(chosen))
        others = [name for name in classes if name not in chosen]
        if others:
            logger.info("%d categories are not evaluated: %s", len(others), ", ".join(others))
        classes = [name for name in classes if name in chosen]
        return classes, [name for name in classes if name in OV_COCO_HELD_OUT]
    if choice == "lvis-rare":
        frequencies = {name: f for table in tables for name, f in table.frequencies.items()}
        if not frequencies:
            raise DataError(
                f"no category has a `frequency`, so none is rare; change {OPTION}, or give a file "
                "of LVIS"
            )
        return classes, [name for name in classes if frequencies.get(name) == "r"]
    return classes, _listed([class_name(name) for name in choice], classes)


def _listed(names: list[str], classes: list[str]) -> list[str]:
    if doubles := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{OPTION}: {len(doubles)} names stand twice, such as {doubles[0]!r}")
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "give names of its categories"
            raise ConfigError(f"{OPTION}: no category is called {name!r}; {hint}")
    return [name for name in classes if name in names]


def warn_of_boxes(
    splits: Mapping[str, Sequence[ImageFile | Rejected]],
    classes: Collection[str],
    held_out: Collection[str],
) -> None:
    """Counts the boxes that may be faults, and the classes and images without boxes."""
    counts: Counter[str] = Counter()
    tested: Counter[str] = Counter()
    outside, flat, bare, total = [], [], [], 0
    for split, files in splits.items():
        for file in files:
            if isinstance(file, Rejected) or file.boxes is None:
                continue
            total += 1
            boxes = file.boxes
            if not boxes.objects:
                bare.append(file.name)
            for name, left, top, wide, high, _ in boxes.objects:
                if not all(map(math.isfinite, (left, top, wide, high))):
                    continue  # rejects its image
                counts[name] += 1
                tested[name] += split == "test"
                right, bottom = left + wide, top + high
                if min(left, top) < -1 or right > boxes.width + 1 or bottom > boxes.height + 1:
                    outside.append(f"{file.name} ({name})")
                if min(right, boxes.width) <= max(left, 0) or (
                    min(bottom, boxes.height) <= max(top, 0)
                ):
                    flat.append(f"{file.name} ({name})")
    boxes_in_all = sum(counts.values())
    _warn("boxes end outside their images and are clipped", outside, boxes_in_all)
    _warn("boxes have no area within their images, and count nowhere", flat, boxes_in_all)
    _warn("images have no boxes", bare, total)
    warn_of_some("no box", {*classes} - counts.keys(), len(classes))
    if held_out:
        untested = {name for name in held_out if not tested[name]}
        warn_of_some("no box in the test split, though they are held out", untested, len(classes))


def _warn(words: str, names: list[str], total: int) -> None:
    if names:
        some = ", ".join(map(printable, names[:3]))
        more = ", ..." if len(names) > 3 else ""
        logger.warning("%d of %d %s: %s%s", len(names), total, words, some, more)
