"""Inputs into shards, one process a core. A shard is one task: images cross no process boundary,
and no more than a few shards' worth of inputs and results are held, however large the data set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import numpy as np

from kdeov.errors import KdeovError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, shard_name
from pipeline.prepare.near_duplicates import difference_hashes
from pipeline.prepare.readers.base import Inputs, Rejected, Sample

POLL_S = 0.5
START_S = 0.5  # until a process that has started makes its first sample
DESCRIPTION = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
PROBES = 9  # inputs that tell how long one takes


@dataclass
class ShardResult:
    """What became of the inputs of one shard.

    Attributes:
        shard: What was written, or None where no input can be used.
        rejected: Inputs that were left out.
        hashes: Of the images that are compared between splits, uint64.
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
    """Makes samples of inputs and writes them into a shard."""
    made, grids = ShardResult(), bytearray()

    def samples() -> Iterator[dict[str, Any]]:
        for item in inputs:
            result = item if isinstance(item, Rejected) else make(item)
            advance()
            if isinstance(result, Rejected):
                made.rejected.append(result)
            else:
                if result.grid is not None:
                    grids.extend(result.grid)
                yield _members(result)

    usable = samples()
    with _quiet():
        first = next(usable, None)
        if first is not None:
            made.shard = folder.write(name, chain([first], usable))
    made.hashes = difference_hashes(grids)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of libraries, which say at length what they pass over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def choose_num_processes(
    make: Callable[[Any], Sample | Rejected], splits: Mapping[str, Inputs], size: int
) -> int:
    """How many processes save time: each has as much to do as its start takes, and one a shard.

    Args:
        make: Makes a sample of an input.
        splits: Inputs of each.
        size: Inputs a shard.
    """
    total = sum(map(len, splits.values()))
    shards = sum(-(-len(inputs) // size) for inputs in splits.values())
    seconds = []
    for item in islice(chain.from_iterable(splits.values()), PROBES):
        start = time.perf_counter()
        if not isinstance(item, Rejected):
            with _quiet():
                make(item)
        seconds.append(time.perf_counter() - start)
    work = total * statistics.median(seconds)
    return max(1, min(os.cpu_count() or 1, shards, int(work / START_S)))


class ShardMaker:
    """Makes shards in several processes, which live as long as the `with` block.

    Args:
        make: Makes a sample of an input.
        processes: How many; one makes them in this process.
    """

    def __init__(self, make: Callable[[Any], Sample | Rejected], processes: int) -> None:
        self._make = make
        self._limit = processes + 2  # a few are ready when a process becomes free
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            # not forked from this one, which may have threads, but from one that has just imported
            # what they need: that is done once, however many there are
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(
                ["pipeline.prepare.make_shards", "pipeline.prepare.sources"]
            )
            self._done = context.Value("Q", 0)
            self._pool = ProcessPoolExecutor(processes, context, _begin, (make, self._done))

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
        """Makes the shards of all splits, in order, each split in a folder of its name.

        Args:
            out: Where to.
            splits: Inputs of each.
            size: Inputs a shard.
            advance: Is told of inputs that are done, now and then.

        Yields:
            The split, and what became of the inputs of a shard.

        Raises:
            KdeovError: A process was killed, or the disk is full.
        """
        if self._pool is None:
            for folder, name, chunk in _chunks(out, splits, size):
                made = make_shard(folder, name, chunk, self._make, lambda: advance(1))
                yield folder.path.name, made
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
                    ready, self._done.value = self._done.value, 0
                advance(ready)
                if finished:
                    return future.result()
        except BrokenProcessPool as error:
            raise KdeovError(
                "a process that reads images was killed; free memory (dmesg tells whether it ran "
                "out), then run the stage again"
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


# What a worker process got when it began.
_make: Callable[[Any], Sample | Rejected]
_done: Any


def _begin(make: Callable[[Any], Sample | Rejected], done: Any) -> None:
    global _make, _done
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
