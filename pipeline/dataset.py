"""What the other stages know of a data set: its splits, name and classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.files import read_json, write_json

SPLITS = ("train", "val", "test")
DATASET = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: What metrics call it.
        source: What it was prepared from.
        classes: Names of the labels; empty where pictures have none.
        held_out: Those of the classes that never occur in training.
        samples: Pictures of each split.
    """

    name: str
    source: str
    classes: list[str]
    held_out: list[str]
    samples: dict[str, int]

    @property
    def held_out_labels(self) -> list[int]:
        """Numbers of the held-out classes."""
        return [self.classes.index(name) for name in self.held_out]

    def write(self, images: Path) -> None:
        """Beside the splits."""
        write_json(images / DATASET, asdict(self))

    @classmethod
    def read(cls, images: Path) -> Dataset:
        """What `prepare` wrote.

        Raises:
            KdeovError: It is missing or damaged.
        """
        return cls(**read_json(images / DATASET, "prepare"))
