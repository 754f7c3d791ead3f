"""The data plan: every sample once an epoch, equal steps everywhere, one order for all worlds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.plan import EpochPlan, check_batch, plan_epoch, rank_slice

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)
calmly = settings(deadline=None)  # other work on this machine fails no test
PLANS = st.fixed_dictionaries(
    {
        "sizes": SIZES,
        "seed": st.integers(0, 2**31),
        "epoch": st.integers(0, 500),
        "global_batch": st.integers(1, 64),
        "window": st.integers(1, 14),
    }
)


@calmly
@given(values=PLANS)
def test_every_sample_comes_once_and_only_the_stated_ones_again(values: dict[str, Any]) -> None:
    plan, total = plan_epoch(**values), sum(values["sizes"])
    assert sorted(plan.order[:total]) == list(range(total))
    assert len(plan.order) == total + plan.repeated == plan.steps * values["global_batch"]
    assert plan.repeated < values["global_batch"]
    again = [plan.order[n % total] for n in range(plan.repeated)]
    assert plan.order[total:].tolist() == again


@calmly
@given(values=PLANS, world=st.integers(1, 8))
def test_ranks_share_each_step_in_equal_parts_of_one_order(
    values: dict[str, Any], world: int
) -> None:
    values["global_batch"] *= world
    plan = plan_epoch(**values)
    joined = [
        plan.order[plan.positions(step, rank, world)]
        for step in range(plan.steps)
        for rank in range(world)
    ]
    assert {len(part) for part in joined} == {values["global_batch"] // world}
    assert np.concatenate(joined).tolist() == plan.order.tolist()


@calmly
@given(values=PLANS)
def test_a_plan_follows_from_its_arguments_alone(values: dict[str, Any]) -> None:
    one, two = plan_epoch(**values), plan_epoch(**values)
    assert one.order.tolist() == two.order.tolist()
    assert (one.windows, one.repeated) == (two.windows, two.repeated)


@calmly
@given(values=PLANS)
def test_a_window_holds_whole_shards_and_few_of_them(values: dict[str, Any]) -> None:
    plan, total = plan_epoch(**values), sum(values["sizes"])
    owner = np.repeat(np.arange(len(values["sizes"])), values["sizes"])
    start, seen = 0, set()
    for end in [end for end in plan.windows if end <= total]:
        shards = set(owner[plan.order[start:end]].tolist())
        assert len(shards) <= values["window"] and not shards & seen
        start, seen = end, seen | shards
    assert start == total


@calmly
@given(values=PLANS)
def test_every_epoch_and_every_seed_has_its_own_order(values: dict[str, Any]) -> None:
    assume(sum(values["sizes"]) >= 20)
    orders = [
        plan_epoch(**values).order,
        plan_epoch(**values | {"epoch": values["epoch"] + 1}).order,
        plan_epoch(**values | {"seed": values["seed"] + 1}).order,
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_the_order_looks_shuffled() -> None:
    plan = plan_epoch([100] * 10, seed=0, epoch=0, global_batch=10, window=10)
    assert abs(np.corrcoef(plan.order, np.arange(1000))[0, 1]) < 0.15


@calmly
@given(count=st.integers(0, 200), world=st.integers(1, 12))
def test_evaluation_is_shared_with_nothing_dropped_and_nothing_twice(
    count: int, world: int
) -> None:
    parts = [rank_slice(count, rank, world) for rank in range(world)]
    assert [n for part in parts for n in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@calmly
@given(batch=st.integers(1, 100), world=st.integers(1, 10))
def test_a_batch_that_workers_cannot_share_is_refused_before_training(
    batch: int, world: int
) -> None:
    if batch % world == 0:
        check_batch(batch, world)
        return
    with pytest.raises(ValueError, match=f"global_batch = {batch} cannot be shared by {world}"):
        check_batch(batch, world)


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_a_manifest_without_samples_is_refused(complains: Any, sizes: list[int]) -> None:
    with complains("nothing to train on", "dvc repro prepare"):
        plan_epoch(sizes, 0, 0, 8, 2)


def test_positions_of_a_small_plan_can_be_checked_by_hand() -> None:
    plan = EpochPlan(np.arange(12), [12], global_batch=6, repeated=0)
    assert plan.steps == 2
    assert plan.positions(1, rank=2, world=3) == slice(10, 12)
