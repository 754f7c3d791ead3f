"""A prepared data set as the other stages see it: its splits, name and classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.storage.files import read_json, write_json

SPLITS = ("train", "val", "test")
DATASET = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: Its name in metrics.
        source: The kind of source that it was prepared from.
        classes: Names of the labels; empty where images have none.
        held_out: Those of the classes that never occur in training.
        samples: Images of each split.
        near_duplicates: By split and other split, as in `test in train`: how many images of the
            one nearly occur in the other, and examples, each with the names in both.
    """

    name: str
    source: str
    classes: list[str]
    held_out: list[str]
    samples: dict[str, int]
    near_duplicates: dict[str, Any] = field(default_factory=dict)

    @property
    def held_out_labels(self) -> list[int]:
        """Numbers of the held-out classes."""
        return [self.classes.index(name) for name in self.held_out]

    def write(self, images: Path) -> None:
        """Writes `dataset.json` beside the splits."""
        write_json(images / DATASET, asdict(self))

    @classmethod
    def read(cls, images: Path) -> Dataset:
        """Reads the file that `prepare` wrote.

        Raises:
            DataError: It is missing or damaged.
        """
        return cls(**read_json(images / DATASET, "prepare"))
