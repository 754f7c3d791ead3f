"""What a notebook may hand to the plain loop: it is taken, or refused in a line with its place."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kdeov import KDEOVModel, train_feature_alignment

TEXTS = ["a cat", "two dogs", "a red bus", "the sea"]
TARGET = torch.linspace(-1, 1, 4 * 32).view(4, 32).cos()


@pytest.fixture
def images(image) -> list[Image.Image]:
    return [image((64, 64), seed) for seed in range(4)]


@pytest.fixture
def model(model_of) -> KDEOVModel:
    return copy.deepcopy(model_of())


def test_a_generator_of_images_reaches_student_and_teacher(model, images):
    same = copy.deepcopy(model)
    generated = train_feature_alignment(model, [((i for i in images), TEXTS)], num_epochs=1)
    assert generated == train_feature_alignment(same, [(images, TEXTS)], num_epochs=1)


def test_pixels_of_another_size_are_refused_from_a_generator_too(model, mistake):
    pixels = torch.randn(4, 3, 32, 32)
    with mistake("epoch 0", "batch 0", "32 x 32", "64 x 64"):
        train_feature_alignment(model, [((row for row in pixels), TEXTS)], num_epochs=1)


@pytest.mark.parametrize(
    "given",
    [TARGET.numpy()[::-1].copy()[::-1], TARGET.numpy().astype(">f4"),
     TARGET.numpy().astype(np.longdouble), TARGET.double(), TARGET.clone().requires_grad_()],
    ids=["strides", "byte order", "long double", "double", "with a gradient"],
)  # fmt: skip
def test_teacher_embeddings_of_any_numbers_are_the_same(model, images, given):
    same = copy.deepcopy(model)
    history = train_feature_alignment(model, [(images, TEXTS, given)], num_epochs=1)
    assert history == train_feature_alignment(same, [(images, TEXTS, TARGET)], num_epochs=1)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (TARGET > 0, "[B, D]"), (TARGET.to(torch.complex64), "[B, D]"),
        (TARGET.to_sparse(), "[B, D]"), (TARGET.to("meta"), "[B, D]"), (TARGET[0], "[B, D]"),
        (TARGET.tolist(), "[B, D]"), (np.array([["a"] * 32] * 4), "[B, D]"),
        (TARGET[:, :16], "16 dimensions"), (TARGET * torch.tensor([[1.0], [1], [0], [1]]), "zero"),
    ],
)  # fmt: skip
def test_what_are_no_teacher_embeddings_is_refused_with_its_place(
    model, images, mistake, given, word
):
    batches = [(images, TEXTS, TARGET), (images, TEXTS, given)]
    with mistake("epoch 0", "batch 1", word):
        train_feature_alignment(model, batches, num_epochs=1)


@pytest.mark.parametrize("sizes", [None, (64, 80)])
def test_samples_that_a_loader_cannot_join_are_answered_with_a_collate_fn(model, mistake, sizes):
    if sizes is None:
        samples = [(Image.new("RGB", (64, 64)), text) for text in TEXTS]
    else:
        pixels = [torch.zeros(3, 64, sizes[number % 2], dtype=torch.uint8) for number in range(4)]
        samples = list(zip(pixels, TEXTS, strict=True))
    with mistake("epoch 0", "batch 0", "collate_fn=lambda samples: tuple(zip(*samples))"):
        train_feature_alignment(model, DataLoader(samples, batch_size=4), num_epochs=1)
    joined = DataLoader(samples, batch_size=4, collate_fn=lambda rows: tuple(zip(*rows)))  # noqa: B905
    assert len(train_feature_alignment(model, joined, num_epochs=1)) == 1


def test_an_error_of_the_users_own_loader_stays_what_it_is(model):
    def loader():
        raise TypeError("mine")
        yield

    with pytest.raises(TypeError, match="mine"):
        train_feature_alignment(model, loader(), num_epochs=1)


def test_what_is_frozen_stays_frozen_and_as_it_was(model, images):
    fusion = model.student.fusion.requires_grad_(False)
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    (epoch,) = train_feature_alignment(model, [(images, TEXTS)], num_epochs=1)
    assert "fusion" not in epoch
    assert all(torch.equal(value, before[name]) for name, value in fusion.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fusion.parameters())


def test_a_weight_of_0_freezes_fusion_no_longer_than_the_training(model, images):
    train_feature_alignment(model, [(images, TEXTS)], num_epochs=1, weights={"fusion": 0})
    assert all(parameter.requires_grad for parameter in model.student.parameters())


@pytest.mark.parametrize("learns", ["student.fusion", "text_encoder"])
def test_a_student_whose_towers_are_frozen_is_refused(model, images, mistake, learns):
    model.requires_grad_(False)
    model.get_submodule(learns).requires_grad_(True)
    with mistake("no weight can learn", "backbone or projection"):
        train_feature_alignment(model, [(images, TEXTS)], num_epochs=1)


def test_a_model_made_in_inference_mode_is_refused(clip_file, images, mistake):
    with torch.inference_mode():
        model = KDEOVModel(clip_file, device="cpu", image_size=64)
    with mistake("inference_mode()", "outside"):
        train_feature_alignment(model, [(images, TEXTS)], num_epochs=1)


def test_weights_that_are_not_finite_before_training_are_not_blamed_on_images(
    model, images, mistake
):
    model.student.projection.linear.weight.data[0, 0] = float("nan")
    with mistake("a weight of the student is not finite"):
        train_feature_alignment(model, [(images, TEXTS)], num_epochs=1)


@pytest.mark.parametrize("option", ["num_epochs", "learning_rate"])
def test_true_is_no_number(model, images, mistake, option):
    with mistake(f"{option} is True"):
        train_feature_alignment(model, [(images, TEXTS)], **{option: True})


def test_a_student_of_another_kind_of_teacher_is_told_to_bring_embeddings(model, images, mistake):
    model.clip_model_name = "tiny"  # as `out/student` names the teacher of the default params
    with mistake("epoch 0, batch 0: tiny: ", "or give (images, texts, teacher_embeddings)"):
        train_feature_alignment(model, [(images, TEXTS)], num_epochs=1)
