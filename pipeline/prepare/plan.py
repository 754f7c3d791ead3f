"""The shards of a source in order, and those of them that are finished already."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import shard_name
from pipeline.prepare.identity import source_identity, values_digest
from pipeline.prepare.readers.base import Source
from pipeline.prepare.readers.remote.read_ahead import in_order
from pipeline.prepare.shard_records import ShardKey, ShardResult, find_finished
from pipeline.prepare.worker import ShardTask
from pipeline.storage.storage import MAX_REQUESTS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardPlan:
    """The shards of a source: shard k of a split is the inputs k * size to (k + 1) * size, whoever
    makes it.

    Attributes:
        kind: The kind of source.
        path: The file or folder that the source reads; None where it reads a bucket.
        source: The listed source.
        out: Receives a folder of shards for each split.
        size: Inputs a shard.
    """

    kind: str
    path: Path | None
    source: Source
    out: ShardFolder
    size: int

    @property
    def num_inputs(self) -> int:
        """Inputs of all splits."""
        return sum(len(self.source.inputs[split]) for split in SPLITS)

    @property
    def num_shards(self) -> int:
        """Shards of all splits, those of which no input turns out to be usable included."""
        return sum(-(-len(self.source.inputs[split]) // self.size) for split in SPLITS)

    def __iter__(self) -> Iterator[ShardTask]:
        identity = source_identity(self.kind, self.source.make)
        for split in SPLITS:
            inputs = iter(self.source.inputs[split])
            for index in count():
                some: list[Any] = list(islice(inputs, self.size))
                if not some:
                    break
                digest = values_digest(some)
                key = ShardKey(self.out / split, shard_name(index), identity, digest)
                yield ShardTask(split, key, some)


def unfinished(
    plan: ShardPlan, on_finished: Callable[[ShardTask, ShardResult], object]
) -> Iterator[ShardTask]:
    """The shards of a plan that are to be made, in order.

    Records of the next few shards are read ahead; memory holds the inputs of these alone.

    Args:
        plan: All shards.
        on_finished: Called with each shard that is finished, and its result.

    Raises:
        KdeovError: The source or the storage cannot be read.
    """
    reasons: Counter[str] = Counter()
    kept = 0
    width = (os.cpu_count() or 1) if plan.out.storage is None else MAX_REQUESTS
    for task, found in in_order(lambda task: find_finished(task.key), plan, width):
        if isinstance(found, ShardResult):
            kept += 1
            on_finished(task, found)
            continue
        if found is not None:
            reasons[found] += 1
        yield task
    for reason, number in reasons.items():
        logger.info("prepare: %d shards are made again: %s", number, reason)
    if kept:
        logger.info("prepare: keeping %d of %d finished shards", kept, plan.num_shards)
