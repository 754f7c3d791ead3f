"""The worker process of `prepare`: makes image shards of the inputs of tasks.

A shard is one task, so images cross no process boundary, and memory holds one sample at a time.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.prepare.identity import versions
from pipeline.prepare.images import without_warnings
from pipeline.prepare.near_duplicates import difference_hashes
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.readers.remote.read_ahead import samples_of
from pipeline.prepare.shard_records import ShardKey, ShardResult, write_record
from pipeline.runtime.node import ready_node
from pipeline.storage.files import exists

PROGRESS_EVERY_S = 0.5
DESCRIPTION = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class ShardTask:
    """An image shard to make.

    Attributes:
        split: Of the data.
        key: What it is made from.
        inputs: Its inputs.
    """

    split: str
    key: ShardKey
    inputs: list[Any]

    @property
    def name(self) -> str:
        """Names the shard in progress and error messages."""
        return f"{self.split}/{self.key.name}"

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.inputs)


@dataclass(frozen=True)
class PrepareConfig:
    """Configuration of every worker; picklable.

    Attributes:
        make: Makes a sample of an input.
        versions: Versions that every worker must have (see `pipeline.prepare.identity.versions`).
        path: The file or folder that every worker must see; None where the source is a bucket.
    """

    make: Callable[[Any], Sample | Rejected]
    versions: dict[str, str | None]
    path: Path | None = None


class PrepareWorker:
    """Makes image shards in this process.

    Args:
        config: The same for all workers of a run.
    """

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config

    def run(self, task: ShardTask, on_progress: Callable[[str, int], object]) -> ShardResult:
        """Makes a shard, then writes its record, unless an input could not be read. A shard without
        a record is made again.

        Args:
            task: The shard.
            on_progress: Called now and then with the name of the task and the number of its inputs
                that are done.

        Raises:
            KdeovError: The shard cannot be written.
        """
        done, reported = 0, time.monotonic()

        def advance() -> None:
            nonlocal done, reported
            done += 1
            if (now := time.monotonic()) - reported > PROGRESS_EVERY_S:
                reported = now
                on_progress(task.name, done)

        folder, name = task.key.folder, task.key.name
        result = make_shard(folder, name, task.inputs, self.config.make, advance)
        if not any(rejected.unread for rejected in result.rejected):
            write_record(task.key, result)
        return result


class RayPrepareWorker(PrepareWorker):
    """A `PrepareWorker` as a Ray actor."""

    def __init__(self, config: PrepareConfig) -> None:
        ready_node()
        super().__init__(config)

    def place(self) -> tuple[str, str]:
        """Host name and Ray node id of its machine.

        Raises:
            ConfigError: The machine does not see the data, or would make other bytes than that of
                the driver.
        """
        import ray

        host, wanted, here = socket.gethostname(), self.config.versions, versions()
        if self.config.path is not None and not exists(self.config.path):
            raise ConfigError(
                f"a worker on {host} does not see {self.config.path}; mount it there, or give "
                "prepare.path an address that all machines share"
            )
        other = [f"{k} {here[k]}, not {wanted[k]}" for k in wanted if here.get(k) != wanted[k]]
        if other:
            raise ConfigError(
                f"a worker on {host} has {', '.join(other)}, and would make other shards than the "
                "machine that runs the stage; install the versions of requirements.lock on all"
            )
        return host, ray.get_runtime_context().get_node_id()

    def run(self, task: ShardTask, progress: Any) -> ShardResult:
        """Makes a shard and reports to the `Progress` actor."""
        return super().run(task, progress.set.remote)


def make_shard(
    folder: ShardFolder,
    name: str,
    inputs: Iterable[Any],
    make: Callable[[Any], Sample | Rejected],
    advance: Callable[[], object],
) -> ShardResult:
    """Writes a shard of inputs in this process.

    Args:
        folder: Receives the shard.
        name: File name of the shard.
        inputs: The inputs; those that are `Rejected` already are passed on.
        make: Makes a sample of an input.
        advance: Called after each input.

    Raises:
        KdeovError: The folder or the storage cannot be written.
    """
    result, grids = ShardResult(), bytearray()

    def samples() -> Iterator[dict[str, Any]]:
        for sample in samples_of(make, inputs):
            advance()
            if isinstance(sample, Rejected):
                result.rejected.append(sample)
            else:
                if sample.grid is not None:
                    grids.extend(sample.grid)
                yield _members(sample)

    usable = samples()
    with without_warnings():
        first = next(usable, None)
        if first is not None:
            result.shard = folder.write(name, chain([first], usable))
    result.hashes = difference_hashes(grids)
    return result


def _members(sample: Sample) -> dict[str, Any]:
    description = {
        "captions": sample.captions,
        "label": sample.label,
        "source": sample.source,
        **sample.extra,
    }
    return {
        "__key__": sample.key,
        "jpg": sample.jpeg,
        "json": DESCRIPTION.encode(description).encode(),
    }
