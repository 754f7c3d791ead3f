"""Facts on the data of a run: images by split, rejected inputs with reasons, near duplicates."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.config.paths import Layout

MAX_REASONS = 12
SAME = 60  # letters of a reason; what follows mostly names the input


@dataclass(frozen=True)
class SplitFacts:
    """A split.

    Attributes:
        name: `train`, `val` or `test`.
        images: Number of images.
        megabytes: Of its shards.
        shards: Number of shards.
        rejected: Inputs that were left out.
    """

    name: str
    images: int
    megabytes: float
    shards: int
    rejected: int


@dataclass(frozen=True)
class Rejection:
    """Inputs that were left out for one reason.

    Attributes:
        reason: The reason.
        count: Inputs.
        example: Name of one.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class DataFacts:
    """The data of a run.

    Attributes:
        splits: Facts by split.
        rejections: The most frequent reasons, up to `MAX_REASONS`.
        other_reasons: Rejected inputs of further reasons.
    """

    splits: list[SplitFacts]
    rejections: list[Rejection]
    other_reasons: int

    @property
    def rejected(self) -> int:
        """All rejected inputs."""
        return sum(split.rejected for split in self.splits)

    @classmethod
    def read(cls, paths: Layout, storage: str | None = None) -> DataFacts:
        """Reads the manifests of the images.

        Args:
            paths: Of the checkout.
            storage: Address of the storage of the shards; None where they lie in the checkout.

        Raises:
            DataError: One is missing, damaged or edited.
        """
        manifests = {split: Manifest.read(paths.images / split, storage) for split in SPLITS}
        names: dict[str, list[str]] = defaultdict(list)
        whole: dict[str, str] = {}
        for manifest in manifests.values():
            for entry in manifest.rejected:
                key = entry["reason"][:SAME]
                names[key].append(entry["name"])
                whole.setdefault(key, entry["reason"])
        reasons = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
        return cls(
            [
                SplitFacts(
                    split,
                    manifest.samples,
                    sum(shard.bytes for shard in manifest.shards) / 1e6,
                    len(manifest.shards),
                    len(manifest.rejected),
                )
                for split, manifest in manifests.items()
            ],
            [Rejection(whole[key], len(found), found[0]) for key, found in reasons[:MAX_REASONS]],
            sum(len(found) for _, found in reasons[MAX_REASONS:]),
        )
