"""Shards made in several processes: a bounded number at once, all inputs accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.make_shards import ShardMaker
from pipeline.sources.base import Rejected, Sample


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
    return Sample(f"{number:04d}", b"picture", ["text"], str(number), hash=number)


def die(number: int) -> Sample | Rejected:
    os._exit(9)


def test_only_a_few_shards_are_held_however_many_inputs_there_are(tmp_path: Path) -> None:
    inputs = Numbers(1000)
    with ShardMaker(make, 2) as maker:
        parts = maker.make(tmp_path, inputs, 10, lambda _: None)
        for done, _ in enumerate(parts, start=1):
            assert inputs.taken <= 10 * (done + 4)
    assert inputs.taken == 1000


def test_every_input_is_told_and_a_shard_of_nothing_is_not_written(tmp_path: Path) -> None:
    for processes in (1, 2):
        told: list[int] = []
        folder = tmp_path / str(processes)
        with ShardMaker(make, processes) as maker:
            parts = list(maker.make(folder, Numbers(60), 10, told.append))
        assert sum(told) == 60
        assert [part.shard and part.shard.samples for part in parts] == [9, 9, 9, 9, None, 9]
        assert len([r for part in parts for r in part.rejected]) == 15
        assert [list(part.hashes)[:1] for part in parts] == [[0], [10], [20], [30], [], [50]]
        assert not (folder / "000004.tar").exists()


def test_a_process_that_was_killed_is_told_in_one_line(tmp_path: Path, complains: Any) -> None:
    with complains("was killed; free memory"), ShardMaker(die, 2) as maker:
        list(maker.make(tmp_path, Numbers(20), 10, lambda _: None))


def test_a_process_that_makes_shards_does_not_wait_for_torch(run_python: Any) -> None:
    script = "import sys, pipeline.prepare; print('torch' in sys.modules)"
    assert run_python("-c", script).stdout.split() == ["False"]
