"""A prepared data set as the other stages see it: its splits, name and classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.manifest import MANIFEST
from pipeline.storage.checked import fix_of, read_record, write_checked_json
from pipeline.storage.files import sha256_file

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
        object_classes: Names of the annotated objects, in the source's order; empty where it has
            no boxes. A stored box of another name is neither evaluated nor learned from.
        held_out_objects: Those of the object classes whose boxes never supervise.
        manifests: The sha256 of the manifest of each split; filled in by `write`.
    """

    name: str
    source: str
    classes: list[str]
    held_out: list[str]
    samples: dict[str, int]
    near_duplicates: dict[str, Any] = field(default_factory=dict)
    object_classes: list[str] = field(default_factory=list)
    held_out_objects: list[str] = field(default_factory=list)
    manifests: dict[str, str] = field(default_factory=dict)

    @property
    def held_out_labels(self) -> list[int]:
        """Numbers of the held-out classes."""
        return [self.classes.index(name) for name in self.held_out]

    @property
    def base_objects(self) -> list[str]:
        """The object classes whose boxes may supervise."""
        held_out = set(self.held_out_objects)
        return [name for name in self.object_classes if name not in held_out]

    def write(self, images: Path) -> None:
        """Writes `dataset.json` beside the splits, whose manifests exist."""
        found = {split: images / split / MANIFEST for split in SPLITS}
        manifests = {split: sha256_file(path) for split, path in found.items() if path.is_file()}
        write_checked_json(images / DATASET, asdict(replace(self, manifests=manifests)))

    @classmethod
    def read(cls, images: Path) -> Dataset:
        """Reads the file that `prepare` wrote.

        Raises:
            DataError: It is missing, damaged or edited, or describes other shards than those of
                the manifests that lie beside it (a stage on a cluster has a part of them).
        """
        dataset = read_record(cls, images / DATASET, "prepare")
        for split, sha256 in dataset.manifests.items():
            path = images / split / MANIFEST
            if path.is_file() and sha256_file(path) != sha256:
                raise DataError(
                    f"{images / DATASET}: describes other images than {path}; {fix_of('prepare')}"
                )
        return dataset
