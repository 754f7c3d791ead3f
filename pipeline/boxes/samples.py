"""Images of the shards with their boxes, and which of the boxes can be used."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from PIL import Image

from kdeov.data.images import to_rgb
from kdeov.detection.augment import BoxedImage
from kdeov.detection.boxes import usable_box
from kdeov.errors import DataError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json

MAX_EXAMPLES = 5  # of each problem, which are named
MAX_CAPTIONS = 1000  # of a split, that a census keeps


@dataclass(frozen=True)
class BoxSample:
    """An image with boxes of the classes that are learned.

    Attributes:
        key: Of the sample.
        jpeg: The encoded image.
        boxes: float32 [M, 4], left, top, right, bottom in pixels of the image.
        classes: [M] class numbers.
        crowd: [M], whether a box is around many objects.
        problems: Of boxes that were left out or clipped: name of the class and problem.
        others: Boxes of classes that are not learned.
        captions: Texts of the image.
    """

    key: str
    jpeg: bytes
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    problems: list[tuple[str, str]]
    others: int
    captions: list[str]

    def boxed_image(self) -> BoxedImage:
        """The decoded image with its boxes."""
        return BoxedImage(to_rgb(Image.open(io.BytesIO(self.jpeg))), self.boxes, self.crowd)


class BoxShards:
    """The image shards of a split, read with their boxes.

    Args:
        images: The shards.
        classes: Classes whose boxes are used, by number.
    """

    def __init__(self, images: ShardFolder, classes: Sequence[str]) -> None:
        self.images, self.manifest = images, images.manifest()
        self.numbers = {name: number for number, name in enumerate(classes)}

    def __len__(self) -> int:
        return self.manifest.samples

    def read(
        self, shard: int, wanted: Any = None, stop: int | None = None, start: int = 0
    ) -> Iterator[tuple[int, BoxSample]]:
        """Samples of a shard with their numbers within it (see `PairedShards.read`)."""
        entry = self.manifest.shards[shard]
        for number, sample in self.images.read(entry, wanted, stop, start):
            yield number, self._parse(sample, entry)

    def __iter__(self) -> Iterator[BoxSample]:
        for shard in range(len(self.manifest.shards)):
            for _, sample in self.read(shard):
                yield sample

    def _parse(self, sample: dict[str, Any], shard: Shard) -> BoxSample:
        try:
            jpeg, description = sample["jpg"], sample_json(sample)
            objects, captions = description.get("objects") or [], description["captions"]
            size = Image.open(io.BytesIO(jpeg)).size  # reads the header alone
            boxes, classes, crowd, problems, others = [], [], [], [], 0
            for thing in objects:
                if thing["name"] not in self.numbers:
                    others += 1
                    continue
                box, problem = usable_box(thing["box"], size)
                if problem is not None:
                    problems.append((thing["name"], problem))
                if box is not None:
                    boxes.append(box)
                    classes.append(self.numbers[thing["name"]])
                    crowd.append(bool(thing.get("crowd", False)))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise DataError(
                f"{self.images.where(shard)}: {sample['__key__']} lacks its image or description "
                f"({error}); run `dvc repro -f prepare`"
            ) from error
        return BoxSample(
            sample["__key__"],
            jpeg,
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.array(classes, dtype=np.int64),
            np.array(crowd, dtype=bool),
            problems,
            others,
            captions,
        )


@dataclass
class Census:
    """Counts of a split's boxes.

    Attributes:
        images: Images of the split.
        without_boxes: Those without a box that is learned.
        boxes: Boxes that are learned, by class.
        others: Boxes of classes that are not learned.
        problems: Boxes with a problem, by problem.
        examples: Key and class of some of them, by problem.
        captions: Some of the distinct captions, whichever shards they are in.
    """

    images: int = 0
    without_boxes: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    others: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, shards: BoxShards) -> Census:
        """Reads a whole split; no image is decoded."""
        census, names = cls(), list(shards.numbers)
        texts: dict[str, str] = {}
        for sample in shards:
            texts |= {sha256(text.encode()).hexdigest(): text for text in sample.captions}
            if len(texts) > 4 * MAX_CAPTIONS:
                texts = dict(sorted(texts.items())[:MAX_CAPTIONS])
            census.images += 1
            census.without_boxes += not len(sample.boxes)
            census.others += sample.others
            census.boxes.update(names[number] for number in sample.classes)
            for name, problem in sample.problems:
                census.problems[problem] += 1
                examples = census.examples.setdefault(problem, [])
                if len(examples) < MAX_EXAMPLES:
                    examples.append(f"{sample.key} ({name})")
        census.boxes.update(dict.fromkeys(names, 0))
        census.captions = [text for _, text in sorted(texts.items())[:MAX_CAPTIONS]]
        return census

    @property
    def empty_classes(self) -> list[str]:
        """Classes that have no box."""
        return sorted(name for name, count in self.boxes.items() if not count)

    def to_dict(self) -> dict[str, Any]:
        """The counts, in JSON types."""
        return {
            "images": self.images,
            "images_without_boxes": self.without_boxes,
            "boxes": self.boxes.total(),
            "boxes_of_other_classes": self.others,
            "classes_without_boxes": self.empty_classes,
            "problems": {
                problem: {"boxes": count, "examples": self.examples[problem]}
                for problem, count in sorted(self.problems.items())
            },
        }
