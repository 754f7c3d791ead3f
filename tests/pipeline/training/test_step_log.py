"""The log of steps: losses, and digests of keys."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.step_curve import read_steps
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.training.loop import train
from pipeline.training.step_log import keys_digest
from tests.helpers.training_runs import (
    config,
)


def test_every_step_states_the_keys_of_the_plan(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    settings = config(built, params, tmp_path)
    train(settings, lambda _: None)
    expected = [
        f"{keys_digest([f'train-{number:07d}' for number in step]) % 2**64:016x}"
        for epoch in range(2)
        for step in settings.plan([10, 10, 4], epoch).order()
    ]
    assert [step.keys for step in read_steps(settings.run / "steps")] == expected


@given(keys=st.lists(st.text(), max_size=8), cut=st.integers(0, 8), data=st.data())
def test_the_digests_of_parts_add_up_to_that_of_the_whole_in_its_order(
    keys: list[str], cut: int, data: st.DataObject
) -> None:
    cut, whole = min(cut, len(keys)), keys_digest(keys)
    parts = keys_digest(keys[:cut]) + keys_digest(keys[cut:], cut)
    assert (parts - whole) % 2**64 == 0
    other = data.draw(st.permutations(keys))
    assert (keys_digest(other) == whole) == (other == keys)
