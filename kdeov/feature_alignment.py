"""A plain distillation loop for notebooks: no Ray, no DVC, no cache."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdeov.data.inputs import is_normalized, listed_images
from kdeov.errors import ConfigError, DataError, KdeovError
from kdeov.models.model import KDEOVModel
from kdeov.teachers.clip import ClipTeacher
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import build_optimizer, build_schedule
from kdeov.weights.device import usable_device

logger = logging.getLogger(__name__)

MAX_GRAD_NORM = 1.0
LARGEST = 1e30  # of a learning rate: beyond it one step overflows float32
CANNOT_JOIN = ("default_collate", "stack expects each tensor to be equal size", "not resizable")
TAUGHT = "(images, texts, teacher_embeddings)"
BATCH = f"(images, texts) or {TAUGHT}"


def train_feature_alignment(
    model: KDEOVModel,
    dataloader: Iterable[Any],
    num_epochs: int = 10,
    learning_rate: float = 1e-4,
    device: str | torch.device | None = None,
    weights: dict[str, float] | None = None,
) -> list[dict[str, float]]:
    """Aligns a student with CLIP's features of the same images and with their captions.

    Args:
        model: Trained in place, and in evaluation mode afterwards. What is frozen stays so: a
            frozen fusion module has no loss.
        dataloader: An iterable of `(images, texts)` or `(images, texts, teacher_embeddings)`:
            images as `KDEOVModel` takes them, a text for each (or tokens), and [B, D] teacher
            embeddings of the images. Without the third, the image tower of `model.clip_model_name`
            is loaded and run on every batch, with its own resize of the images. Without a length,
            as of iterable data sets, the learning rate changes once an epoch.
        num_epochs: Passes over the dataloader.
        learning_rate: Peak of AdamW's cosine schedule, with 5% warm-up.
        device: Device to train on; the model's, by default.
        weights: Weights of the terms of `FeatureAlignmentLoss` and of `fusion`;
            feature 1, contrastive 0.1 and fusion 0.1 by default.

    Returns:
        The mean of every loss term over the batches that came, one mapping an epoch.

    Raises:
        ConfigError: An argument that cannot be used, or a dataloader that is empty or can be read
            only once.
        DataError: A batch of something else, or pixels, a loss or a gradient that is not finite;
            the model keeps the finite weights of the batch before.
        KdeovError: The teacher's weights cannot be read or downloaded.
    """
    _check_arguments(model, dataloader, num_epochs, learning_rate, weights)
    weights = {"feature": 1.0, "contrastive": 0.1, "fusion": 0.1, **(weights or {})}
    fusion_weight = weights.pop("fusion")
    fusion = {p: p.requires_grad for p in model.student.fusion.parameters()}
    if not any(fusion.values()):
        fusion_weight = 0.0
    if device is not None:
        model.to(usable_device(device))
    loss = FeatureAlignmentLoss(weights).to(model.device)
    step = GradCacheStep(model.student, loss, fusion_weight)
    optimizer = build_optimizer(nn.ModuleList([model.student, loss]), learning_rate, 0.05)
    length = _length(dataloader)
    total = num_epochs * (length or 1)
    schedule = build_schedule(optimizer, total, warmup=max(1, total // 20))
    targets = _Targets(model)
    history = []
    try:
        for epoch in range(num_epochs):
            model.train()
            sums: dict[str, float] = {}
            batches = 0
            for batches, batch in enumerate(_batches(dataloader, epoch), 1):
                where = f"epoch {epoch}, batch {batches - 1}"
                inputs = _inputs(model, targets, batch, where)
                optimizer.zero_grad()
                for name, value in _backward(step, inputs, where).items():
                    sums[name] = sums.get(name, 0.0) + value
                optimizer.step()
                if length is not None:
                    schedule.step()
            if not batches:
                raise ConfigError(
                    f"the dataloader gave no batch in epoch {epoch}; give one that can be read "
                    "once an epoch, such as a list or a torch DataLoader"
                )
            if length is None:
                schedule.step()
            history.append({name: value / batches for name, value in sums.items()})
            logger.info("epoch %d: %s", epoch, _line(history[-1]))
    finally:
        for parameter, learns in fusion.items():  # the step freezes a module of weight 0
            parameter.requires_grad_(learns)
        model.eval()
    return history


class _Targets:
    """The teacher's embeddings of a batch. The teacher is loaded when a batch has none.

    Args:
        model: The student in training.
    """

    def __init__(self, model: KDEOVModel) -> None:
        self.model = model
        self._teacher: ClipTeacher | None = None

    def __call__(self, images: Any) -> Tensor:
        """Images as a batch holds them, to [B, D].

        Raises:
            DataError: Pixels that were normalized at another size than the teacher's.
        """
        if self._teacher is None:
            try:
                self._teacher = ClipTeacher.load(self.model.clip_model_name, self.model.device)
            except KdeovError as error:
                raise DataError(f"{error}; or give {TAUGHT}") from error
        size = self._teacher.transform.size
        pixels = self._teacher.preprocess(images)
        if is_normalized(images) and pixels.shape[-2:] != (size, size):
            raise DataError(
                f"normalized pixels of {pixels.shape[-2]} x {pixels.shape[-1]}, and the teacher "
                f"reads {size} x {size}; give PIL images, uint8 pixels or the teacher's embeddings"
            )
        return self._teacher.encode_image(pixels.to(self.model.device, torch.float32))


def _check_arguments(
    model: Any, dataloader: Any, num_epochs: Any, learning_rate: Any, weights: Any
) -> None:
    """Checks what is known before the first batch."""
    if not isinstance(getattr(model, "_orig_mod", model), KDEOVModel):  # it may be compiled
        raise ConfigError(f"the model is of type {type(model).__name__}; give a KDEOVModel")
    if model.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"weights of {model.dtype} are too coarse to train; call model.float()")
    towers = [*model.student.backbone.parameters(), *model.student.projection.parameters()]
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in towers):
        raise ConfigError(
            "no weight can learn: call it outside of torch.no_grad() and inference_mode(), with "
            "weights of backbone or projection of which some require gradients"
        )
    if any(p.is_inference() for p in model.parameters()):
        raise ConfigError(
            "the model was made in torch.inference_mode(), where nothing learns; make or load it "
            "outside"
        )
    if not all(value.isfinite().all() for value in model.student.state_dict().values()):
        raise ConfigError("a weight of the student is not finite; load or make the model again")
    if not isinstance(num_epochs, Integral) or num_epochs is True or int(num_epochs) < 1:
        raise ConfigError(f"num_epochs is {num_epochs!r}; give 1 or more")
    if not isinstance(weights, Mapping | None):
        raise ConfigError(f"weights are {weights!r}; give a mapping of loss terms to numbers")
    fusion_weight = (weights or {}).get("fusion", 0)  # the loss checks the others
    for name, value in {"learning_rate": learning_rate, "fusion": fusion_weight}.items():
        if not isinstance(value, Real) or value is True or not 0 <= float(value) <= LARGEST:
            raise ConfigError(f"{name} is {value!r}; give a number from 0 to {LARGEST:g}")
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, str | bytes | Mapping):
        raise ConfigError(
            f"the dataloader is of type {type(dataloader).__name__}; give an iterable of {BATCH}"
        )
    if isinstance(dataloader, Iterator) and int(num_epochs) > 1:
        raise ConfigError(
            f"the dataloader is an iterator, used up after one of {num_epochs} epochs; give a list "
            "or a torch DataLoader"
        )
    if _length(dataloader) == 0:
        raise ConfigError("the dataloader is empty; give batches")


def _length(dataloader: Any) -> int | None:
    """Number of batches, or None where the dataloader has none."""
    try:
        return len(dataloader)
    except (TypeError, NotImplementedError):
        return None


def _batches(dataloader: Iterable[Any], epoch: int) -> Iterator[Any]:
    """The batches of an epoch. A torch DataLoader cannot join PIL images, or tensors of several
    sizes, without a `collate_fn`.
    """
    number, batches = 0, iter(dataloader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (TypeError, RuntimeError) as error:
            if not any(words in str(error) for words in CANNOT_JOIN):
                raise
            raise DataError(
                f"epoch {epoch}, batch {number}: the DataLoader cannot join these samples; give "
                "it collate_fn=lambda samples: tuple(zip(*samples))"
            ) from error
        yield batch
        number += 1


def _inputs(
    model: KDEOVModel, targets: _Targets, batch: Any, where: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, 3, H, W], the teacher's embeddings [B, D] and those of texts [B, D]."""
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        kind = type(batch).__name__
        size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
        raise DataError(f"{where}: a {kind}{size}; give {BATCH}")
    images, texts, *rest = batch
    try:
        if not isinstance(images, np.ndarray | Tensor):
            images = listed_images(images)  # the teacher reads them too, and a generator ends
        pixels, text = model.preprocess(images), model.encode_text(texts)
        target = _teacher_embeddings(rest[0]) if rest else targets(images)
    except KdeovError as error:
        raise DataError(f"{where}: {error}") from error
    target = target.to(pixels)
    if not len(pixels) == len(text) == len(target):
        raise DataError(
            f"{where}: {len(pixels)} images, {len(text)} texts and {len(target)} teacher "
            "embeddings; give one of each"
        )
    for name, value in (("pixel", pixels), ("teacher embedding", target)):
        if not value.isfinite().all():
            raise DataError(f"{where}: a {name} is not finite; leave this image out")
    if target.shape[1] != model.embed_dim:
        raise DataError(
            f"{where}: teacher embeddings of {target.shape[1]} dimensions, and the student has "
            f"{model.embed_dim}; give those of {model.clip_model_name}"
        )
    if not target.any(dim=1).all():
        raise DataError(f"{where}: a teacher embedding is zero; leave this image out")
    return pixels, target, text


def _teacher_embeddings(given: Any) -> Tensor:
    """Embeddings [B, D] as a batch holds them."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "fiu":
        given = torch.from_numpy(np.ascontiguousarray(given, dtype=np.float64))
    if (
        not isinstance(given, Tensor)
        or given.is_nested
        or given.ndim != 2
        or given.dtype == torch.bool
        or given.is_complex()
        or given.is_meta
        or given.is_quantized
        or given.layout is not torch.strided
    ):
        raise DataError("teacher embeddings are no tensor [B, D] of numbers; give one")
    return given


def _backward(
    step: GradCacheStep, inputs: tuple[Tensor, Tensor, Tensor], where: str
) -> dict[str, float]:
    """Gradients of a batch, clipped, and the loss terms. After an error the student is as it was
    before.
    """
    buffers = list(step.student.buffers())  # a forward pass moves the statistics of batch norm
    before = [buffer.clone() for buffer in buffers]
    try:
        terms = {name: value.item() for name, value in step.backward(*inputs).items()}
        norm = nn.utils.clip_grad_norm_(step.student.parameters(), MAX_GRAD_NORM).item()
        if not math.isfinite(terms["total"]) or not math.isfinite(norm):
            raise DataError(
                f"{where}: the loss is {terms['total']} and the length of its gradient {norm}; "
                "lower the learning_rate, or check these images"
            )
    except Exception as error:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        if isinstance(error, ValueError) and len(inputs[0]) == 1:
            raise DataError(
                f"{where}: a batch of one image gives batch norm one value a channel; set "
                "drop_last=True in the DataLoader, or a larger image_size"
            ) from error
        raise
    return terms


def _line(terms: dict[str, float]) -> str:
    order: Sequence[str] = sorted(terms, key=lambda name: name != "total")
    return ", ".join(f"{name} {terms[name]:.4f}" for name in order)
