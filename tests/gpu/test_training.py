"""Training on a GPU takes the steps of a CPU, and does not make the GPU wait."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts.step_curve import read_steps
from pipeline.data.batch import Batch
from pipeline.data.loader import EpochStream, epoch_loader
from pipeline.data.step_inputs import StepInputs
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.trainer import Trainer
from tests.gpu.conftest import Cache

BF16 = 0.02  # relative difference of losses that bfloat16 makes


def trained(config: TrainConfig) -> dict[str, Any]:
    train(config, lambda _: None)
    state = config.checkpoints.latest()
    assert state is not None
    return state


def batches_of(trainer: Trainer, colors_on_device: bool = False) -> list[Batch]:
    stream = EpochStream(
        trainer.train_shards,
        trainer.plan,
        trainer.transform,
        colors_on_device=colors_on_device,
    )
    return list(epoch_loader(stream, workers=0))


def test_a_run_shows_the_same_images_and_nearly_the_same_losses_as_on_a_cpu(
    device: str, cache: Cache, tmp_path: Path
) -> None:
    here = cache.config(tmp_path / "here", device, {"dataloader_workers": 1}, learning_rate=1e-5)
    cpu = cache.config(tmp_path / "cpu", "cpu", learning_rate=1e-5)
    state, expected = trained(here), trained(cpu)
    assert [row["on_gpu"] for row in state["history"]] == [float(device == "cuda")] * 2
    found = read_steps(here.run / "steps")
    for step, other in zip(found, read_steps(cpu.run / "steps"), strict=True):
        assert (step.epoch, step.step, step.keys) == (other.epoch, other.step, other.keys)
        assert step.loss == pytest.approx(other.loss, rel=BF16)
    for row, other in zip(state["history"], expected["history"], strict=True):
        assert row["val_cosine"] == pytest.approx(other["val_cosine"], abs=BF16)


def test_a_run_that_ended_after_an_epoch_goes_on(device: str, cache: Cache, tmp_path: Path) -> None:
    config = cache.config(tmp_path / "run", device, learning_rate=1e-5)
    first = Trainer(config)
    first.resume()
    row = {"epoch": 1.0, **first.train_epoch(), **first.validate()}
    first.end_epoch(row)
    again = Trainer(config)
    again.resume()
    assert again.state.global_step == first.state.global_step == 3
    batch = batches_of(again)[0]
    # of equal weights, optimizer and schedule
    ours, theirs = again.train_step(batch), first.train_step(batch)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert len(trained(config)["history"]) == 2


def test_the_student_learns_a_batch(device: str, cache: Cache, tmp_path: Path) -> None:
    trainer = Trainer(cache.config(tmp_path, device, epochs=20))
    trainer.student.train()
    batch = trainer.inputs(batches_of(trainer)[0])
    losses = [trainer.train_step(batch) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_inputs_are_normalized_on_the_device_and_channels_last(
    device: str, cache: Cache, tmp_path: Path
) -> None:
    trainer = Trainer(cache.config(tmp_path, device))
    batch = batches_of(trainer)[0]
    inputs = trainer.inputs(batch)
    assert isinstance(inputs, StepInputs) and trainer.inputs(inputs) is inputs
    assert {t.device.type for t in inputs[1:]} == {device}
    assert inputs.pixels.is_contiguous(memory_format=torch.channels_last)
    expected = trainer.transform.normalize(batch.pixels)
    torch.testing.assert_close(inputs.pixels.cpu(), expected, atol=1e-6, rtol=1e-6)
    crops = batches_of(trainer, colors_on_device=True)[0]
    assert len(crops.views) == len(crops.keys) and not torch.equal(crops.pixels, batch.pixels)
    assert torch.equal(trainer.inputs(crops).pixels, inputs.pixels)


def test_a_step_waits_for_the_gpu_once(cuda: str, cache: Cache, tmp_path: Path) -> None:
    trainer = Trainer(cache.config(tmp_path, cuda))
    trainer.student.train()
    inputs = [trainer.inputs(batch) for batch in batches_of(trainer)]
    for batch in inputs:  # constants and workspaces are made
        trainer.train_step(batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trainer.train_step(inputs[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in found if "synchroniz" in str(w.message)]
    assert len(waits) == 1, waits


def test_copying_a_batch_makes_nothing_wait(cuda: str, cache: Cache, tmp_path: Path) -> None:
    trainer = Trainer(cache.config(tmp_path, cuda))
    batches = batches_of(trainer)
    trainer.inputs(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.inputs(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_step_has_the_loss_of_a_plain_one(
    cuda: str, cache: Cache, tmp_path: Path
) -> None:
    losses = []
    for compile in (False, True):
        trainer = Trainer(cache.config(tmp_path / str(compile), cuda, {"compile": compile}))
        trainer.student.train()
        losses.append(trainer.train_step(batches_of(trainer)[0]))
    assert losses[1] == pytest.approx(losses[0], rel=BF16)
