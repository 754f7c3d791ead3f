"""Image shards from the inputs of a source, in several processes.

A shard is one task, so images cross no process boundary, and memory holds the inputs and results of
a few shards only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import numpy as np

from kdeov.errors import KdeovError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, shard_name
from pipeline.prepare.images import without_warnings
from pipeline.prepare.near_duplicates import difference_hashes
from pipeline.prepare.readers.base import Inputs, Rejected, Sample
from pipeline.prepare.readers.remote.read_ahead import samples_of
from pipeline.runtime.lifetime import end_with_parent

POLL_S = 0.5
PROCESS_START_S = 0.5  # from its start to the first sample of a process
DESCRIPTION = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
NUM_PROBES = 9  # inputs that are timed


@dataclass
class ShardResult:
    """The result of one shard's inputs.

    Attributes:
        shard: The shard, or None where no input is usable.
        rejected: Inputs that cannot be used.
        hashes: Difference hashes of the images, uint64; empty where images are not compared.
    """

    shard: Shard | None = None
    rejected: list[Rejected] = field(default_factory=list)
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))


def make_shard(
    folder: ShardFolder,
    name: str,
    inputs: Iterable[Any],
    make: Callable[[Any], Sample | Rejected],
    advance: Callable[[], None],
) -> ShardResult:
    """Writes a shard of inputs in this process.

    Args:
        folder: Receives the shard.
        name: File name of the shard.
        inputs: The inputs; those that are `Rejected` already are passed on.
        make: Makes a sample of an input.
        advance: Called after each input.
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


def choose_num_processes(
    make: Callable[[Any], Sample | Rejected], splits: Mapping[str, Inputs], size: int
) -> int:
    """Number of processes: at most one a core, one a shard, and one per `PROCESS_START_S` of work.

    Args:
        make: Makes a sample of an input.
        splits: The inputs of each split.
        size: Inputs a shard.
    """
    total = sum(map(len, splits.values()))
    shards = sum(-(-len(inputs) // size) for inputs in splits.values())
    seconds = []
    for item in islice(chain.from_iterable(splits.values()), NUM_PROBES):
        start = time.perf_counter()
        if not isinstance(item, Rejected):
            with without_warnings():
                make(item)
        seconds.append(time.perf_counter() - start)
    work = total * statistics.median(seconds)
    return max(1, min(os.cpu_count() or 1, shards, int(work / PROCESS_START_S)))


class ShardMaker:
    """Writes shards in several processes, which live as long as the `with` block.

    Args:
        make: Makes a sample of an input.
        processes: Number of processes; 1 works in this process.
    """

    def __init__(self, make: Callable[[Any], Sample | Rejected], processes: int) -> None:
        self._make = make
        self._limit = processes + 2  # so that a free process finds a task
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            # this process may have threads and must not be forked; the fork server imports what the
            # processes need once for all of them
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(
                ["pipeline.prepare.make_shards", "pipeline.prepare.sources"]
            )
            self._done = context.Value("Q", 0)
            self._pool = ProcessPoolExecutor(processes, context, _initialize, (make, self._done))

    def __enter__(self) -> ShardMaker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def make(
        self,
        out: ShardFolder,
        splits: Mapping[str, Inputs],
        size: int,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[str, ShardResult]]:
        """Writes the shards of all splits, in order, each split in a folder of its name.

        Args:
            out: The parent of those folders.
            splits: The inputs of each split.
            size: Inputs a shard.
            advance: Called with the number of inputs processed since the last call.

        Yields:
            The split and the result of each shard.

        Raises:
            KdeovError: A process was killed, or the disk is full.
        """
        if self._pool is None:
            for folder, name, chunk in _chunks(out, splits, size):
                result = make_shard(folder, name, chunk, self._make, lambda: advance(1))
                yield folder.path.name, result
            return
        pending: deque[tuple[str, Future[ShardResult]]] = deque()
        for folder, name, chunk in _chunks(out, splits, size):
            future = self._pool.submit(_make_shard, folder, name, chunk)
            pending.append((folder.path.name, future))
            if len(pending) == self._limit:
                split, future = pending.popleft()
                yield split, self._result(future, advance)
        while pending:
            split, future = pending.popleft()
            yield split, self._result(future, advance)

    def _result(self, future: Future[ShardResult], advance: Callable[[int], None]) -> ShardResult:
        try:
            while True:
                finished = wait([future], timeout=POLL_S).done
                with self._done.get_lock():
                    count, self._done.value = self._done.value, 0
                advance(count)
                if finished:
                    return future.result()
        except BrokenProcessPool as error:
            raise KdeovError(
                "a process that reads images was killed; free memory if `dmesg` shows that it ran "
                "out, then run the stage again"
            ) from error


def _chunks(
    out: ShardFolder, splits: Mapping[str, Inputs], size: int
) -> Iterator[tuple[ShardFolder, str, list[Any]]]:
    for split, inputs in splits.items():
        iterator = iter(inputs)
        for index in count():
            chunk = list(islice(iterator, size))
            if not chunk:
                break
            yield out / split, shard_name(index), chunk


# set by `_initialize` in each worker process
_make: Callable[[Any], Sample | Rejected]
_done: Any


def _initialize(make: Callable[[Any], Sample | Rejected], done: Any) -> None:
    global _make, _done
    end_with_parent()
    _make, _done = make, done


def _make_shard(folder: ShardFolder, name: str, inputs: list[Any]) -> ShardResult:
    return make_shard(folder, name, inputs, _make, _advance)


def _advance() -> None:
    with _done.get_lock():
        _done.value += 1


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
