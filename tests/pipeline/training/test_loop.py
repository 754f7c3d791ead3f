"""Training in this process: its history, its options, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.student import VisualStudent
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.epoch_plan import EpochPlan
from pipeline.runtime.device import cpu_threads
from pipeline.training.loop import train
from tests.helpers.training_runs import (
    TERMS,
    MakeParams,
    assert_equal,
    config,
    trained,
)


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
            "val_cosine", "val_loss", "on_gpu",
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


def test_the_cpu_threads_of_the_process_change_no_bit(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    params, students = make_params(distill={"epochs": 1}), []
    for count in (1, 2, 3):
        with cpu_threads(count):
            _, state = trained(config(built, params, tmp_path / str(count)))
            assert torch.get_num_threads() == count  # as before
        students.append(state["student"])
    assert_equal(students[0], students[1])
    assert_equal(students[0], students[2])


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


def test_samples_that_fill_the_last_step_are_reported(
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
    settings = config(built, params, tmp_path / "run", checkpoint_every=1)
    with complains(
        "nan", "epoch 1, step 2", "distill.learning_rate", "train-00000",
        f"{tmp_path / 'run' / 'checkpoints' / 'step-000000001.pt'}",
    ):  # fmt: skip
        train(settings, lambda _: None)
    stopped = json.loads(settings.run.read("stopped-rank-0.json"))
    assert (stopped["step"], len(stopped["keys"])) == (2, params.distill.global_batch_size)


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
        with complains("distill.backbone_weights", "null"):
            make_params(distill=option)


def test_the_data_plan_is_made_once_an_epoch(
    built: Layout, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    check = EpochPlan.__post_init__

    def count(plan: EpochPlan) -> None:
        made.append(plan.epoch)
        check(plan)

    monkeypatch.setattr(EpochPlan, "__post_init__", count)
    train(config(built, params, tmp_path, checkpoint_every=1), lambda _: None)
    assert made == [0, 1]
