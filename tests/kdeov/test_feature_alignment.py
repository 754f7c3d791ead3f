"""Distillation in a notebook."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch.utils.data import DataLoader

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


def test_a_missing_teacher_is_named(model, batches, mistake):
    model.clip_model_name = "no such weights"
    with mistake("no such weights"):
        train_feature_alignment(model, batches, num_epochs=1)
