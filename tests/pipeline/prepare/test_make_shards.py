"""Shards made in several processes: a bounded number at once, all inputs accounted for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.prepare.make_shards import ShardMaker, choose_num_processes
from pipeline.prepare.readers.base import Rejected, Sample


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


def die(number: int) -> Sample | Rejected:
    os._exit(9)


def test_only_a_few_shards_are_held_however_many_inputs_there_are(tmp_path: Path) -> None:
    inputs = Numbers(1000)
    with ShardMaker(make, 2) as maker:
        parts = maker.make(ShardFolder(tmp_path), {"train": inputs}, 10, lambda _: None)
        for done, _ in enumerate(parts, start=1):
            assert inputs.taken <= 10 * (done + 4)
    assert inputs.taken == 1000


def test_every_input_is_counted_and_a_shard_of_nothing_is_not_written(tmp_path: Path) -> None:
    for processes in (1, 2):
        on_progress: list[int] = []
        folder = tmp_path / str(processes)
        splits = {"train": Numbers(60), "test": Numbers(12)}
        with ShardMaker(make, processes) as maker:
            found = list(maker.make(ShardFolder(folder), splits, 10, on_progress.append))
        assert sum(on_progress) == 72
        assert [split for split, _ in found] == ["train"] * 6 + ["test"] * 2
        parts = [part for _, part in found]
        sizes = [part.shard and part.shard.samples for part in parts]
        assert sizes == [9, 9, 9, 9, None, 9, 9, 2]
        assert len([r for part in parts for r in part.rejected]) == 16
        first = [list(part.hashes)[:1] for part in parts]
        assert first == [[1], [2], [4], [8], [], [32], [1], [2]]
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tar"))
        assert names == [f"test/{n:06d}.tar" for n in (0, 1)] + [
            f"train/{n:06d}.tar" for n in (0, 1, 2, 3, 5)
        ]


def slowly(number: int) -> Sample | Rejected:
    time.sleep(0.02)
    return make(number)


def test_processes_are_started_only_where_they_save_time() -> None:
    cores = os.cpu_count() or 1
    assert choose_num_processes(make, {"train": Numbers(1000)}, 10) == 1
    assert choose_num_processes(slowly, {"train": Numbers(1000)}, 10) == min(cores, 40)
    assert choose_num_processes(slowly, {"train": Numbers(1000)}, 1000) == 1
    assert choose_num_processes(slowly, {"train": Numbers(10)}, 1) == 1


def test_a_process_that_was_killed_is_reported_in_one_line(tmp_path: Path, complains: Any) -> None:
    with complains("was killed; free memory"), ShardMaker(die, 2) as maker:
        list(maker.make(ShardFolder(tmp_path), {"train": Numbers(20)}, 10, lambda _: None))


def test_a_process_that_makes_shards_does_not_wait_for_torch(run_python: Any) -> None:
    script = "import sys, pipeline.prepare.prepare; print('torch' in sys.modules)"
    assert run_python("-c", script).stdout.split() == ["False"]
