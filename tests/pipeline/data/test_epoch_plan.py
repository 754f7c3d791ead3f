"""The data plan: every sample once an epoch, equal steps everywhere, one order for all worlds."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdeov.errors import ConfigError
from pipeline.config.batch_sharing import shared_unit
from pipeline.data.epoch_plan import EpochPlan, rank_slice

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)
calmly = settings(deadline=None)  # other work on this machine fails no test


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    num_streams = draw(st.integers(1, 12))
    batch = num_streams * draw(st.integers(1, 6))
    return {
        "sizes": draw(SIZES),
        "seed": draw(st.integers(0, 2**31)),
        "epoch": draw(st.integers(0, 500)),
        "global_batch_size": batch,
        "num_streams": num_streams,
        "buffer": draw(st.integers(1, 200)),
        "micro_batch_size": draw(
            st.sampled_from([n for n in range(1, batch + 1) if batch % n == 0])
        ),
    }


@calmly
@given(values=plans())
def test_every_sample_comes_once_and_only_the_stated_number_again(values: dict[str, Any]) -> None:
    plan, total = EpochPlan(**values), sum(values["sizes"])
    order = plan.order()
    assert order.shape == (plan.steps, values["global_batch_size"])
    counts = np.bincount(order.ravel(), minlength=total)
    assert len(counts) == total and counts.min() >= 1
    assert (counts - 1).sum() == plan.repeated < values["global_batch_size"]
    assert counts.max() <= 1 + -(-plan.repeated // total)


@calmly
@given(values=plans(), world=st.integers(1, 12))
def test_ranks_in_turn_make_up_each_step_whatever_their_number(
    values: dict[str, Any], world: int
) -> None:
    plan = EpochPlan(**values)
    streams = [plan.streams_of(rank, world) for rank in range(world)]
    assert [stream for share in streams for stream in share] == list(range(plan.num_streams))
    shares = plan.shares(world)
    unit = shared_unit(plan.global_batch_size, plan.num_streams, plan.micro_batch_size)
    assert sum(shares) == plan.global_batch_size and max(shares) - min(shares) <= unit
    assert all(share % plan.micro_batch_size == 0 for share in shares)
    assert min(shares) > 0 or plan.global_batch_size // unit < world


@calmly
@given(values=plans())
def test_a_stream_reads_forwards_and_comes_back_to_no_shard(values: dict[str, Any]) -> None:
    plan = EpochPlan(**values)
    for stream in range(plan.num_streams):
        ranges = list(plan.ranges(stream))
        assert sum(s.stop - s.start for s in ranges) == plan.steps * plan.stream_batch
        assert all(0 <= s.start < s.stop <= values["sizes"][s.shard] for s in ranges)
        if not plan.repeated:
            assert len({s.shard for s in ranges}) == len(ranges)
        # only the first and the last shard of a stream are shared with its neighbours
        assert all(s.stop - s.start == values["sizes"][s.shard] for s in ranges[1:-1])


@calmly
@given(values=plans())
def test_no_more_is_held_than_the_stated_buffer(values: dict[str, Any]) -> None:
    plan = EpochPlan(**values)
    longest = max(
        len(block.order) for stream in range(plan.num_streams) for block in plan.blocks(stream)
    )
    assert longest * plan.num_streams <= max(values["buffer"], values["global_batch_size"])
    for stream in range(plan.num_streams):
        blocks = list(plan.blocks(stream))
        assert [b.first for b in blocks] == np.cumsum([0, *(b.steps for b in blocks)])[:-1].tolist()
        assert sum(b.steps for b in blocks) == plan.steps
        assert all(sorted(b.order) == list(range(b.steps * plan.stream_batch)) for b in blocks)


@calmly
@given(values=plans(), data=st.data())
def test_a_stream_can_be_taken_up_at_any_step(values: dict[str, Any], data: st.DataObject) -> None:
    plan = EpochPlan(**values)
    stream = data.draw(st.integers(0, plan.num_streams - 1))
    step = data.draw(st.integers(0, plan.steps))
    whole, later = list(plan.blocks(stream)), list(plan.blocks(stream, step))
    assert [b.first for b in later] == [b.first for b in whole if b.first + b.steps > step]
    for one, two in zip(whole[len(whole) - len(later) :], later, strict=True):
        assert np.array_equal(one.order, two.order)
    assert sum(s.stop - s.start for s in plan.ranges(stream, step)) == (
        (plan.steps - step) * plan.stream_batch
    )


def test_streams_read_one_after_the_other_and_not_all_at_the_same_step() -> None:
    plan = EpochPlan([500] * 20, 0, 0, global_batch_size=100, num_streams=10, buffer=2000)
    firsts = [{block.first for block in plan.blocks(stream)} - {0} for stream in range(10)]
    reading = np.bincount([step for steps in firsts for step in steps], minlength=plan.steps)
    assert reading.max() == 1


@calmly
@given(values=plans())
def test_a_plan_follows_from_its_arguments_alone(values: dict[str, Any]) -> None:
    assert np.array_equal(EpochPlan(**values).order(), EpochPlan(**values).order())


@calmly
@given(values=plans())
def test_every_epoch_and_every_seed_has_its_own_order(values: dict[str, Any]) -> None:
    values["sizes"] = [*values["sizes"], 5, 6, 7, 8]
    values["buffer"] = max(values["buffer"], 8 * values["global_batch_size"])
    orders = [
        EpochPlan(**values).order(),
        EpochPlan(**values | {"epoch": values["epoch"] + 1}).order(),
        EpochPlan(**values | {"seed": values["seed"] + 1}).order(),
    ]
    assert len({tuple(order.ravel().tolist()) for order in orders}) == 3


def test_a_batch_mixes_the_whole_of_the_data() -> None:
    plan = EpochPlan([100] * 20, seed=0, epoch=0, global_batch_size=50, num_streams=10, buffer=500)
    order = plan.order()
    shards = [len(set((step // 100).tolist())) for step in order]
    assert min(shards) >= 6


def test_a_million_samples_are_planned_in_seconds_and_little_memory() -> None:
    tracemalloc.start()
    plan = EpochPlan([1000] * 1000, 0, 0, global_batch_size=4096, num_streams=64, buffer=65536)
    assert np.bincount(plan.order().ravel()).min() == 1
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()


@calmly
@given(count=st.integers(0, 200), world=st.integers(1, 12))
def test_evaluation_is_shared_with_nothing_dropped_and_nothing_twice(
    count: int, world: int
) -> None:
    parts = [rank_slice(count, rank, world) for rank in range(world)]
    assert [n for part in parts for n in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("num_streams", "micro"), [(4, 1), (5, 3)])
def test_a_step_that_cannot_be_divided_is_refused(num_streams: int, micro: int) -> None:
    with pytest.raises(ConfigError):
        EpochPlan([5], 0, 0, 10, num_streams, 1, micro)


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_a_manifest_without_samples_is_refused(complains: Any, sizes: list[int]) -> None:
    with complains("no samples", "dvc repro prepare"):
        EpochPlan(sizes, 0, 0, 8, 2, 8)
