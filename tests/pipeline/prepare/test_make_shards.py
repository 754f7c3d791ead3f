"""Shards of a plan: a bounded number of inputs at once, all of them accounted for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.execution_params import ClusterParams
from pipeline.prepare.make_shards import is_long, make_shards
from pipeline.prepare.plan import ShardPlan, unfinished
from pipeline.prepare.readers.base import Rejected, Sample, Source

INLINE = ClusterParams(mode="inline")


class Numbers:
    """Inputs that count how many of them were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def make(number: int) -> Sample | Rejected:
    if number % 10 == 3 or 40 <= number < 50:
        return Rejected(str(number), "unlucky")
    cells = np.zeros((8, 9), np.float32)
    cells[7, 8 - number // 10 % 8] = 1  # one bit of the last byte of its hash
    return Sample(f"{number:04d}", b"image", ["text"], str(number), grid=cells.tobytes())


def slowly(number: int) -> Sample | Rejected:
    time.sleep(0.02)
    return make(number)


def plan(out: Path, size: int = 10, make: Any = make, **counts: int) -> ShardPlan:
    inputs = {split: Numbers(counts.get(split, 0)) for split in SPLITS}
    return ShardPlan("numbers", None, Source(inputs, make), ShardFolder(out), size)


def test_only_a_few_shards_are_held_however_many_inputs_there_are(tmp_path: Path) -> None:
    found = plan(tmp_path, train=1000)
    taken = found.source.inputs["train"]
    ahead = 10 * ((os.cpu_count() or 1) + 2)
    tasks = unfinished(found, lambda *_: None)
    for done, _ in enumerate(make_shards(found, tasks, INLINE, None, lambda _: None), start=1):
        assert taken.taken <= 10 * done + ahead  # type: ignore[attr-defined]
    assert taken.taken == 1000  # type: ignore[attr-defined]


def test_every_input_is_counted_and_a_shard_of_nothing_is_not_written(tmp_path: Path) -> None:
    on_progress: list[int] = []
    all_shards = plan(tmp_path, train=60, test=12)
    made = list(make_shards(all_shards, all_shards, INLINE, None, on_progress.append))
    assert on_progress[-1] == 72 and all(a <= b for a, b in pairwise(on_progress))
    assert [task.split for task, _ in made] == ["train"] * 6 + ["test"] * 2
    results = [result for _, result in made]
    assert [r.shard and r.shard.samples for r in results] == [9, 9, 9, 9, None, 9, 9, 2]
    assert len([r for result in results for r in result.rejected]) == 16
    first = [list(result.hashes)[:1] for result in results]
    assert first == [[1], [2], [4], [8], [], [32], [1], [2]]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tar")) == [
        f"test/{n:06d}.tar" for n in (0, 1)
    ] + [f"train/{n:06d}.tar" for n in (0, 1, 2, 3, 5)]


def test_what_was_made_is_found_with_all_that_it_gave(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    all_shards = plan(tmp_path, train=60, test=12)
    made = {t.name: r for t, r in make_shards(all_shards, all_shards, INLINE, None, lambda _: None)}
    assert (
        list(unfinished(all_shards, lambda task, result: found.update({task.name: result}))) == []
    )
    assert list(found) == list(made)
    for name, result in found.items():
        assert (result.shard, result.rejected) == (made[name].shard, made[name].rejected)
        assert np.array_equal(result.hashes, made[name].hashes)


def test_more_inputs_make_the_shards_that_they_change_and_no_others(tmp_path: Path) -> None:
    before = plan(tmp_path, train=25)
    list(make_shards(before, before, INLINE, None, lambda _: None))
    longer = plan(tmp_path, train=45)
    names = [task.key.name for task in unfinished(longer, lambda *_: None)]
    assert names == ["000002.tar", "000003.tar", "000004.tar"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU")
def test_workers_are_started_only_where_they_save_time(tmp_path: Path) -> None:
    assert not is_long(plan(tmp_path, train=1000))
    assert is_long(plan(tmp_path, make=slowly, train=2000))
    assert not is_long(plan(tmp_path, size=2000, make=slowly, train=2000))
    assert not is_long(plan(tmp_path, make=slowly, train=100))


def test_a_process_that_makes_shards_does_not_wait_for_torch(run_python: Any) -> None:
    script = "import sys, pipeline.prepare.prepare; print({'torch', 'ray'} & {*sys.modules})"
    assert run_python("-c", script).stdout.split() == ["set()"]
