"""Distillation in a notebook."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from kdeov import ClipTeacher, KDEOVModel, train_feature_alignment
from kdeov.training.losses import TERMS
from kdeov.weights.state_dict import state_dict_sha256

TEXTS = ["a cat", "two dogs", "a red bus", "the sea", "some food", "a tower", "snow", "a horse"]


@pytest.fixture
def images(image):
    return [image((64, 64), seed) for seed in range(8)]


@pytest.fixture
def batches(images):
    return [(images[:4], TEXTS[:4]), (images[4:], TEXTS[4:])]


@pytest.fixture
def model(model_of):
    return copy.deepcopy(model_of())


@pytest.mark.parametrize("image_size", [64, 32])
def test_a_few_epochs_bring_the_student_to_its_teacher(clip_file, batches, image_size):
    model = KDEOVModel(clip_file, device="cpu", image_size=image_size)
    history = train_feature_alignment(model, batches, num_epochs=6, learning_rate=3e-3)
    assert [epoch.keys() for epoch in history] == [
        {"feature", "contrastive", "fusion", "total"}
    ] * 6
    assert history[-1]["total"] < history[0]["total"]
    assert history[-1]["feature"] < 0.7 * history[0]["feature"]


def test_the_trained_student_is_near_its_teacher(clip_file, model, batches, images):
    teacher = ClipTeacher.load(clip_file)
    target = teacher.encode_image(teacher.preprocess(images))

    def cosine():
        return torch.cosine_similarity(model.encode_image(images), target).mean().item()

    before = cosine()
    train_feature_alignment(model, batches, num_epochs=8, learning_rate=3e-3)
    assert not model.training
    assert cosine() > max(0.8, before + 0.2)


def test_given_teacher_embeddings_need_no_teacher(model, batches):
    target = torch.randn(2, 4, 32)
    taught = [(*batch, embeddings) for batch, embeddings in zip(batches, target, strict=True)]
    model.clip_model_name = "no such weights"
    history = train_feature_alignment(model, taught, num_epochs=6, learning_rate=3e-3)
    assert history[-1]["total"] < history[0]["total"]
    assert history[-1]["feature"] < 0.8 * history[0]["feature"]


def test_tensors_from_a_data_loader_are_taken(model, images):
    pixels = model.preprocess(images)
    tokens = model.text_encoder.tokenize(TEXTS)
    samples = list(zip(pixels, tokens, torch.randn(8, 32), strict=True))
    history = train_feature_alignment(model, DataLoader(samples, batch_size=4), num_epochs=1)
    assert len(history) == 1 and history[0]["total"] > 0


def test_training_never_touches_the_text_encoder(model, batches):
    before = state_dict_sha256(model.text_encoder.state_dict())
    student = state_dict_sha256(model.student.state_dict())
    train_feature_alignment(model, batches, num_epochs=1)
    assert state_dict_sha256(model.text_encoder.state_dict()) == before
    assert state_dict_sha256(model.student.state_dict()) != student


def test_weights_choose_the_terms(model, batches):
    weights = {**dict.fromkeys(TERMS, 0.5), "contrastive": 0.0, "fusion": 0.0}
    (epoch,) = train_feature_alignment(model, batches, num_epochs=1, weights=weights)
    assert epoch.keys() == {"feature", "affinity", "relation", "interactive", "total"}
    shares = (epoch[name] for name in ("feature", "affinity", "relation", "interactive"))
    assert epoch["total"] == pytest.approx(sum(shares) / 2, rel=1e-5)


def test_every_epoch_is_logged(model, batches, caplog):
    with caplog.at_level(logging.INFO, "kdeov"):
        train_feature_alignment(model, batches, num_epochs=2)
    logged = [message for message in caplog.messages if message.startswith("epoch")]
    assert [message.split(" ")[:3] for message in logged] == [
        ["epoch", f"{n}:", "total"] for n in range(2)
    ]


def test_an_empty_dataloader_is_refused(model, mistake):
    for loader in ([], DataLoader([])):
        with mistake("dataloader"):
            train_feature_alignment(model, loader)


class Stream(IterableDataset):
    """Images as pixels of several sizes with texts, without a length."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        yield from zip(map(pil_to_tensor, self.images), TEXTS, strict=True)


class UsedUp:
    """A loader with a length that gives its batches once."""

    def __init__(self, batches):
        self.batches, self.rest = batches, iter(batches)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return self.rest


def test_a_data_set_without_a_length_is_trained_on(model, images, batches):
    same = copy.deepcopy(model)
    history = train_feature_alignment(model, DataLoader(Stream(images), batch_size=4), 3, 1e-3)
    assert len(history) == 3 and history[2]["total"] < history[0]["total"]
    # the first epoch has the same images; the learning rate moves once an epoch
    (expected,) = train_feature_alignment(same, batches, 1, 1e-3)
    assert history[0] == pytest.approx(expected, rel=1e-3)


def test_a_generator_is_enough_for_one_epoch_and_refused_for_two(model, batches, mistake):
    before = state_dict_sha256(model.student.state_dict())
    with mistake("iterator", "2 epochs"):
        train_feature_alignment(model, iter(batches), num_epochs=2)
    assert state_dict_sha256(model.student.state_dict()) == before
    assert len(train_feature_alignment(model, iter(batches), num_epochs=1)) == 1


def test_a_used_up_loader_is_named_with_its_epoch(model, batches, mistake):
    with mistake("no batch", "epoch 1"):
        train_feature_alignment(model, UsedUp(batches), num_epochs=2)


def test_means_count_the_batches_that_came(model, batches):
    class Long(list):
        def __len__(self):
            return 10

    same = copy.deepcopy(model)
    (counted,) = train_feature_alignment(model, Long(batches), 1, learning_rate=0)
    (expected,) = train_feature_alignment(same, batches, 1, learning_rate=0)
    assert counted == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_the_teacher_sees_its_own_resize_of_the_images(clip_file, images, image_size):
    model = KDEOVModel(clip_file, device="cpu", image_size=image_size)
    teacher = ClipTeacher.load(clip_file)
    target = teacher.encode_image(teacher.preprocess(images))
    own = train_feature_alignment(copy.deepcopy(model), [(images, TEXTS)], 1)
    given = train_feature_alignment(copy.deepcopy(model), [(images, TEXTS, target)], 1)
    assert own[0] == pytest.approx(given[0], rel=1e-5)


def test_pixels_normalized_for_another_size_are_refused_without_embeddings(model, mistake):
    pixels = torch.randn(4, 3, 32, 32)
    with mistake("32 x 32", "64 x 64"):
        train_feature_alignment(model, [(pixels, TEXTS[:4])], num_epochs=1)
    batch = (pixels, TEXTS[:4], torch.randn(4, 32))
    assert len(train_feature_alignment(model, [batch], num_epochs=1)) == 1


def poisoned(images):
    pixels = torch.randn(4, 3, 64, 64)
    pixels[1, 2, 3, 4] = float("nan")
    return pixels, TEXTS[:4]


def far_too_bright(images):
    pixels = torch.randn(4, 3, 64, 64)
    pixels[1, 2, 3, 4] = 1e38  # finite, and no sum of squares is
    return pixels, TEXTS[:4], torch.randn(4, 32)


def infinite_target(images):
    return images[:4], TEXTS[:4], torch.full((4, 32), float("inf"))


@pytest.mark.parametrize("bad", [poisoned, far_too_bright, infinite_target])
def test_numbers_that_are_not_finite_stop_training_and_keep_the_weights(
    model, batches, images, mistake, bad
):
    same = copy.deepcopy(model)
    train_feature_alignment(same, batches[:1] * 2, num_epochs=1)
    with mistake("epoch 0", "batch 2"):
        train_feature_alignment(model, [*batches[:1] * 2, bad(images)], num_epochs=1)
    assert not model.training
    state = model.student.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert all(  # of the batches before, but for the schedule's length
        torch.allclose(state[name], value, rtol=0, atol=1e-3)
        for name, value in same.student.state_dict().items()
        if "running" in name
    )


def test_a_last_batch_of_one_stops_with_its_cure_and_finite_weights(clip_file, images, mistake):
    model = KDEOVModel(clip_file, device="cpu", image_size=32)
    one = [(images[:4], TEXTS[:4]), (images[4:5], TEXTS[4:5])]
    with mistake("epoch 0", "batch 1", "drop_last"):
        train_feature_alignment(model, one, num_epochs=1)
    assert all(value.isfinite().all() for value in model.student.state_dict().values())
    larger = KDEOVModel(clip_file, device="cpu", image_size=64)
    assert len(train_feature_alignment(larger, one, num_epochs=1)) == 1


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        ({"image": [0], "text": TEXTS}, "dict"), (torch.zeros(4, 3, 64, 64), "Tensor"),
        ((1,), "tuple of 1"), ((1, 2, 3, 4), "tuple of 4"), ((["a.jpg"], ["a cat"]), "a.jpg"),
        ((torch.zeros(2, 3, 64, 64), torch.arange(2)), "tokens"),
        ((torch.zeros(2, 3, 64, 64), None), "NoneType"),
        ((torch.zeros(2, 3, 64, 64), [("a", "b"), ("c", "d")]), "one text for each image"),
        ((torch.zeros(2, 3, 64, 64), TEXTS), "2 images"),
        ((torch.zeros(2, 3, 64, 64), TEXTS[:2], None), "[B, D]"),
        ((torch.zeros(2, 3, 64, 64), TEXTS[:2], torch.zeros(1, 32)), "1 teacher"),
    ],
)  # fmt: skip
def test_a_batch_of_something_else_is_refused_with_its_place(model, batches, mistake, batch, word):
    with mistake("epoch 0", "batch 1", word):
        train_feature_alignment(model, [batches[0], batch], num_epochs=1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_epochs": 0}, "num_epochs is 0"), ({"num_epochs": 1.5}, "1.5"),
        ({"num_epochs": "3"}, "'3'"), ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": "1e-4"}, "'1e-4'"), ({"learning_rate": -1e-4}, "-0.0001"),
        ({"learning_rate": 1e40}, "1e+40"),
        ({"device": "gpu"}, "'gpu'"), ({"weights": [1]}, "[1]"),
        ({"weights": {"feature": None}}, "'feature' is None"), ({"weights": {"feat": 1}}, "'feat'"),
        ({"weights": {"fusion": float("inf")}}, "fusion is inf"),
        ({"dataloader": None}, "NoneType"),
        ({"dataloader": {"train": []}}, "dict"), ({"dataloader": "train"}, "str"),
        ({"dataloader": TensorDataset(torch.zeros(2, 3, 64, 64))}, "TensorDataset"),
        ({"model": torch.nn.Linear(2, 2)}, "Linear"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(model, batches, mistake, options, word):
    with mistake(word):
        train_feature_alignment(**{"model": model, "dataloader": batches, **options})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_too_coarse_to_train_are_refused(model, batches, mistake, dtype):
    with mistake(dtype, "model.float()"):
        train_feature_alignment(model.to(dtype), batches, num_epochs=1)


def test_a_model_in_double_precision_is_trained(model, batches):
    same = copy.deepcopy(model)
    (double,) = train_feature_alignment(model.double(), batches, num_epochs=1)
    (single,) = train_feature_alignment(same, batches, num_epochs=1)
    assert model.dtype == torch.float64
    assert double == pytest.approx(single, rel=1e-3)


def test_a_missing_teacher_is_named(model, batches, mistake):
    model.clip_model_name = "no such weights"
    with mistake("no such weights"):
        train_feature_alignment(model, batches, num_epochs=1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_one_line(model, batches, mistake, mode):
    with mode(), mistake("torch.no_grad()"):
        train_feature_alignment(model, batches, num_epochs=1)
    model.requires_grad_(False)
    with mistake("no weight can learn"):
        train_feature_alignment(model, batches, num_epochs=1)
