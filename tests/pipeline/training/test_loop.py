"""Training in this process: its history, its end after a kill, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.student import VisualStudent
from kdeov.training.rng import seed_generators
from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.epoch_plan import check_sharing
from pipeline.storage.storage import open_storage
from pipeline.training import trainer
from pipeline.training.config import TrainConfig
from pipeline.training.distill import MACHINE
from pipeline.training.loop import train
from pipeline.training.step_log import StepLog, keys_digest, read_steps
from pipeline.training.trainer import EpochMetrics

MakeParams = Callable[..., Params]
TERMS = {"feature": 1.0, "affinity": 0.5, "contrastive": 0.2, "interactive": 0.2, "fusion": 0.1}


class Killed(Exception):
    """Stands for the end of the process."""


def config(layout: Layout, params: Params, run: Path, **changes: Any) -> TrainConfig:
    identity = read_teacher_identity(layout.teacher)
    return TrainConfig(
        params=params.distill,
        images=layout.images,
        embeddings=layout.embeddings,
        identities={
            split: cache_identity(identity, params.embed, split) for split in ("train", "val")
        },
        run=open_storage(str(run)),
        use_gpu=False,
        **changes,
    )


def trained(config: TrainConfig) -> tuple[list[EpochMetrics], dict[str, Any]]:
    """Rows that were reported, and the last checkpoint."""
    rows: list[EpochMetrics] = []
    train(config, rows.append)
    return rows, latest(config)


def latest(config: TrainConfig) -> dict[str, Any]:
    state = config.checkpoints.latest()
    assert state is not None
    return state


def steady(rows: list[EpochMetrics]) -> list[EpochMetrics]:
    """Rows without the speed of the machine."""
    return [{k: v for k, v in row.items() if k not in MACHINE} for row in rows]


def assert_equal(one: Any, two: Any) -> None:
    """Bit for bit, in nested containers too."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for ours, theirs in zip(one, two, strict=True):
            assert_equal(ours, theirs)
    else:
        assert one == two


def test_every_epoch_reports_one_row_of_history(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    rows, state = trained(config(built, params, tmp_path))
    assert [row["epoch"] for row in rows] == [1, 2] and state["epoch"] == 2
    assert state["history"] == rows
    for row in rows:
        assert set(row) == {
            "epoch", "learning_rate", "workers", "train_feature", "train_contrastive",
            "train_fusion", "train_total", "repeated_samples", "images_per_s", "data_wait",
            "val_cosine", "val_loss",
        }  # fmt: skip
        added = 0.1 * row["train_contrastive"] + 0.1 * row["train_fusion"]
        assert row["train_total"] == pytest.approx(row["train_feature"] + added)
        assert row["val_loss"] == pytest.approx(1 - row["val_cosine"])
        assert -1 <= row["val_cosine"] <= 1
        assert (row["repeated_samples"], row["workers"]) == (0, 1)


def test_the_student_learns(built: Layout, make_params: MakeParams, tmp_path: Path) -> None:
    params = make_params(distill={"epochs": 8, "ema_decay": 0.0})
    rows, _ = trained(config(built, params, tmp_path))
    assert rows[-1]["train_feature"] < 0.7 * rows[0]["train_feature"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.5},
        {"losses": TERMS, "fusion": "cross_attention", "global_batch_size": 20},
    ],
    ids=["plain", "averaged", "every loss"],
)
def test_a_killed_run_ends_with_the_very_weights_of_one_that_was_not(
    built: Layout, make_params: MakeParams, tmp_path: Path, changes: dict[str, Any]
) -> None:
    params = make_params(distill=changes)
    rows, whole = trained(config(built, params, tmp_path / "whole"))

    def die(_: EpochMetrics) -> None:
        raise Killed

    killed = config(built, params, tmp_path / "killed")
    with pytest.raises(Killed):
        train(killed, die)
    assert latest(killed)["epoch"] == 1
    more, resumed = trained(killed)
    assert steady(more) == steady(rows[1:])
    assert steady(resumed.pop("history")) == steady(whole.pop("history"))
    assert_equal(resumed, whole)


def test_a_finished_run_is_left_as_it_is(built: Layout, params: Params, tmp_path: Path) -> None:
    settings = config(built, params, tmp_path)
    _, before = trained(settings)
    rows, after = trained(settings)
    assert rows == []
    assert_equal(before, after)


def test_loader_processes_change_no_bit(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    params = make_params(distill={"epochs": 1})
    _, one = trained(config(built, params, tmp_path / "one"))
    _, two = trained(config(built, params, tmp_path / "two", dataloader_workers=2))
    assert_equal(one["student"], two["student"])


def test_another_seed_gives_another_student(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    students = []
    for seed in (0, 1):
        params = make_params(distill={"epochs": 1, "seed": seed})
        students.append(trained(config(built, params, tmp_path / f"{seed}"))[1]["student"])
    one, two = students
    assert any(not torch.equal(one[name], two[name]) for name in one if "projection" in name)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_averaged_weights_are_saved_where_they_are_asked_for(
    built: Layout, make_params: MakeParams, tmp_path: Path, ema_decay: float
) -> None:
    _, state = trained(config(built, make_params(distill={"ema_decay": ema_decay}), tmp_path))
    plain = {
        name.removeprefix("student."): value
        for name, value in state["model"].items()
        if name.startswith("student.")
    }
    assert plain.keys() == state["student"].keys()
    same = all(torch.equal(plain[name], value) for name, value in state["student"].items())
    assert same == (ema_decay == 0)
    if ema_decay:
        assert_equal(state["student"], state["average"])
        assert state["average_updates"] == 6
    VisualStudent("yolov8n", "film", 32).load_state_dict(state["student"])


def test_only_the_terms_that_are_asked_for_are_computed(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    weights = dict.fromkeys(TERMS, 0.0) | {"interactive": 2.0}
    params = make_params(distill={"epochs": 1, "losses": weights, "feature_loss": "l2"})
    rows, state = trained(config(built, params, tmp_path))
    assert {name for name in rows[0] if name.startswith("train_")} == {
        "train_interactive",
        "train_total",
    }
    assert rows[0]["train_total"] == pytest.approx(2 * rows[0]["train_interactive"])
    torch.manual_seed(params.distill.seed)
    fresh = VisualStudent("yolov8n", "film", 32).state_dict()
    for name, value in state["student"].items():
        if name.startswith("fusion."):
            assert torch.equal(value, fresh[name])


def test_every_term_counts_with_its_weight(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    params = make_params(distill={"epochs": 1, "losses": TERMS})
    rows, _ = trained(config(built, params, tmp_path))
    total = sum(weight * rows[0][f"train_{term}"] for term, weight in TERMS.items())
    assert rows[0]["train_total"] == pytest.approx(total, rel=1e-4)


def test_samples_that_fill_the_last_step_are_told(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    params = make_params(distill={"epochs": 1, "global_batch_size": 20})
    rows, _ = trained(config(built, params, tmp_path))
    assert rows[0]["repeated_samples"] == 16


def test_a_loss_that_is_no_number_stops_training_and_names_the_step_and_its_images(
    built: Layout, make_params: MakeParams, tmp_path: Path, complains: Any
) -> None:
    params = make_params(
        distill={"learning_rate": 1e20, "max_grad_norm": 1e20, "warmup_fraction": 0.0}
    )
    settings = replace(config(built, params, tmp_path / "run"), checkpoint_every=1)
    with complains(
        "the loss is nan in epoch 1, step 2", "distill.learning_rate", "train-00000",
        f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step-000000001.pt'}",
    ):  # fmt: skip
        train(settings, lambda _: None)
    stopped = json.loads(settings.run.read("stopped-rank-0.json"))
    assert (stopped["step"], len(stopped["keys"])) == (2, params.distill.global_batch_size)


def die_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Ends training right after a step."""
    add = StepLog.add

    def last(log: StepLog, epoch_now: int, step_now: int, loss: float, digest: int) -> None:
        add(log, epoch_now, step_now, loss, digest)
        if (epoch_now, step_now) == (epoch, step):
            raise Killed

    monkeypatch.setattr(StepLog, "add", last)


@pytest.mark.parametrize(
    ("epoch", "step", "every", "changes"),
    [
        *((epoch, step, 1, {}) for epoch in (0, 1) for step in range(3)),
        *((epoch, 2, 2, {"ema_decay": 0.5, "losses": TERMS}) for epoch in (0, 1)),
        (0, 1, 500, {"ema_decay": 0.5, "ridge_init": 0.3, "backbone_learning_rate": 1e-4}),
    ],
)
def test_a_run_that_ends_at_any_step_goes_on_with_the_very_same_steps(
    built: Layout,
    make_params: MakeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    every: int,
    changes: dict[str, Any],
) -> None:
    params = make_params(distill=changes)
    whole = config(built, params, tmp_path / "whole", checkpoint_every=every)
    rows, expected = trained(whole)
    killed = config(built, params, tmp_path / "killed", checkpoint_every=every)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, epoch, step)
        train(killed, lambda _: None)
    before = read_steps(killed.run / "steps")
    _, found = trained(killed)
    assert steady(found.pop("history")) == steady(expected.pop("history")) == steady(rows)
    assert_equal(found, expected)
    steps = read_steps(whole.run / "steps")
    assert read_steps(killed.run / "steps") == steps  # the same losses, to the bit
    done = 3 * epoch + step + 1
    assert before == steps[: len(before)] and done - min(every, step + 1) <= len(before) < done


def test_a_machine_that_is_about_to_be_taken_away_is_a_reason_for_a_checkpoint(
    built: Layout, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "NOTICE_EVERY", 2)
    settings = config(built, params, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 0, 2)
        train(settings, lambda _: None, notice=lambda: True)
    assert (latest(settings)["epoch"], latest(settings)["step"]) == (0, 2)


@pytest.mark.parametrize("option", ["backbone_learning_rate", "freeze_batch_norm"])
def test_a_pretrained_backbone_is_kept_as_params_say(
    built: Layout, make_params: MakeParams, tmp_path: Path, option: str
) -> None:
    layers = LightweightVisualBackbone("yolov8n").trunk.network.state_dict()
    weights = {f"model.{name}": value for name, value in layers.items()}
    torch.save(weights, tmp_path / "yolo.pt")
    value = 0 if option == "backbone_learning_rate" else True
    params = make_params(
        distill={"backbone_weights": str(tmp_path / "yolo.pt"), "epochs": 1, option: value}
    )
    _, state = trained(config(built, params, tmp_path / "run"))
    prefix = "backbone.trunk.network."
    after = {
        name.removeprefix(prefix): tensor
        for name, tensor in state["student"].items()
        if name.startswith(prefix)
    }
    assert after.keys() == layers.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, layers[name])}
    kept = {name for name in layers if option == "backbone_learning_rate" or "running_" in name}
    assert kept and not kept & changed
    assert bool(changed) == (option == "freeze_batch_norm")
    assert any("projection" in name for name in state["student"])


def test_random_weights_are_not_frozen(make_params: MakeParams, complains: Any) -> None:
    for option in ({"freeze_batch_norm": True}, {"backbone_learning_rate": 0}):
        with complains("distill.backbone_weights: null are random weights"):
            make_params(distill=option)


def test_all_random_generators_go_on_where_they_were(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    settings = config(built, params, tmp_path)
    train(settings, lambda _: None)
    drawn = random.random(), np.random.rand(), torch.rand(1)
    seed_generators(99)
    train(settings, lambda _: None)  # takes up the end of the run
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn


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


def work(rank: int, world: int, settings: TrainConfig, meeting: Path, dies: int | None) -> None:
    """A rank of a run; rank 1 is killed after a number of steps."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    if dies is not None and rank == 1:
        add = StepLog.add

        def last(log: StepLog, epoch: int, step: int, loss: float, digest: int) -> None:
            add(log, epoch, step, loss, digest)
            if epoch * 2 + step + 1 == dies:
                os.kill(os.getpid(), signal.SIGKILL)

        StepLog.add = last  # type: ignore[method-assign]
    train(settings, lambda _: None)


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_and_one_takes_over_when_a_rank_is_killed(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    """A real SIGKILL of rank 1; the run is taken up by a world of another size. Of the three
    micro-batches of a step, the first rank has two.
    """
    params = make_params(
        distill={"losses": TERMS, "global_batch_size": 12, "num_streams": 3, "learning_rate": 1e-5}
    )
    alone, pair, killed = (
        config(built, params, tmp_path / name, checkpoint_every=1)
        for name in ("alone", "pair", "killed")
    )
    rows, expected = trained(alone)
    mp.spawn(work, (2, pair, tmp_path / "meet-1", None), nprocs=2)
    with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
        mp.spawn(work, (2, killed, tmp_path / "meet-2", 3), nprocs=2)
    reached = latest(killed)
    assert (reached["epoch"], reached["step"]) == (1, 0)
    trained(killed)

    steps = read_steps(alone.run / "steps")
    for other in (pair, killed):
        for step, found in zip(steps, read_steps(other.run / "steps"), strict=True):
            assert (found.epoch, found.step, found.keys) == (step.epoch, step.step, step.keys)
            assert found.loss == pytest.approx(step.loss, rel=1e-5)
    assert [step.workers for step in read_steps(killed.run / "steps")] == [2, 2, 1, 1]
    for other in (pair, killed):
        assert [row["train_total"] for row in latest(other)["history"]] == pytest.approx(
            [row["train_total"] for row in rows], rel=1e-5
        )
        for name, value in latest(other)["student"].items():
            torch.testing.assert_close(value, expected["student"][name], atol=1e-4, rtol=1e-3)


def test_fewer_images_than_ranks_are_refused(complains: Any) -> None:
    with complains("1 training images are fewer than 2 workers", "cluster.num_workers"):
        check_sharing(2, 2, 1, world=2, samples=1)
