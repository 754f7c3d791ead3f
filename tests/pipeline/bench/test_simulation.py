"""The simulated plan is the real one, and an error in it would show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.bench.data.planning import PER_SHARD
from pipeline.bench.scaling.simulation import simulate, simulation_figures
from pipeline.bench.sizes import PlanSize
from pipeline.data.epoch_plan import EpochPlan, SampleRange

SIZES = [37, 5, 0, 64, 21, 90, 3, 48, 55, 12]
RANKS = 4


class Forgetful(EpochPlan):
    """Leaves out the last segment of its first stream, and reads the first one twice."""

    def ranges(self, lane: int, from_step: int = 0) -> Iterator[SampleRange]:
        found = list(super().ranges(lane, from_step))
        return iter([found[0], *found[:-1]] if lane == 0 else found)


def plan_of(kind: type[EpochPlan] = EpochPlan) -> EpochPlan:
    return kind(SIZES, 3, 1, global_batch_size=16, num_streams=8, buffer=64)


def test_it_counts_what_the_order_of_the_epoch_has() -> None:
    plan = plan_of()
    found, order = simulate(plan, RANKS), plan.order()
    counts = np.bincount(order.ravel(), minlength=plan.samples)
    assert found.steps == len(order)
    assert found.missed == (counts == 0).sum() == 0
    assert found.repeated == (counts - 1).sum() == plan.repeated > 0
    shares = np.split(order, RANKS, axis=1)
    assert found.rank_samples == (shares[0].size, shares[0].size)
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    opened = [len(np.unique(shard_of[share])) for share in shares]
    assert found.rank_shards == (min(opened), max(opened))


def test_readers_of_a_shard_are_counted_at_each_step() -> None:
    plan = plan_of()
    readers = np.zeros((plan.steps, len(SIZES)), int)
    for stream in range(plan.num_streams):
        shards = [s.shard for s in plan.ranges(stream) for _ in range(s.stop - s.start)]
        steps = np.repeat(np.arange(plan.steps), plan.stream_batch)
        for step, shard in {*zip(steps.tolist(), shards, strict=True)}:
            readers[step, shard] += 1
    assert simulate(plan, RANKS).shard_readers == readers.max() > 1


def test_samples_that_are_left_out_or_read_twice_are_seen() -> None:
    whole, plan = plan_of(), plan_of(Forgetful)
    first, *_, last = whole.ranges(0)
    found = simulate(plan, RANKS)
    fewest, most = found.rank_samples
    more = (first.stop - first.start) - (last.stop - last.start)
    assert most - fewest == abs(more) > 0
    assert found.repeated - found.missed == whole.repeated + more
    assert found.missed > 0


def test_a_billion_samples_come_once_and_equally_many_to_each_of_1024_ranks() -> None:
    size = PlanSize()
    found = simulate(size.plan([PER_SHARD] * 100_000), size.ranks)
    assert (found.steps, found.missed) == (15_259, 0)
    assert found.repeated == 15_259 * 65_536 - 10**9
    assert found.rank_samples == (15_259 * 64, 15_259 * 64)
    assert found.shard_readers == 1
    assert found.held == size.buffer / size.ranks


def test_figures_of_a_run_clear_their_bars(tmp_path: Path) -> None:
    size = PlanSize(1_000_000, ranks=64, global_batch_size=4096, num_streams=512, buffer=65_536)
    found = {figure.name: figure for figure in simulation_figures(tmp_path, size)}
    assert [name for name, figure in found.items() if not figure.ok] == []
    assert "3,520 come twice" in found["large_plan_missed"].note
    assert 0 < found["large_plan_megabytes"].value < 10
