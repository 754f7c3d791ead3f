"""The offline stand-in for CLIP: a small `clip.model.CLIP`, trained on the training captions.

It has CLIP's modified ResNet (a ViT needs far more images to learn shapes) on 64 pixels, and a
text tower of two layers over CLIP's own tokens, so that the whole pipeline runs without a
download.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError
from kdeov.training.optim import build_optimizer, build_schedule
from kdeov.weights.clip import import_clip
from kdeov.weights.state_dict import StateDict
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import sample_json
from pipeline.config.teacher_params import TinyTeacherParams
from pipeline.console import progress
from pipeline.runtime.device import cpu_threads

logger = logging.getLogger(__name__)

RESOLUTION = 64  # pixels; the modified ResNet needs a multiple of 32
VISION_LAYERS = (1, 2, 2, 2)
TEXT_WIDTH, TEXT_LAYERS = 64, 2
CONTEXT = 28  # tokens; no caption of the scenes has more
VOCABULARY = 49408  # of CLIP's tokenizer
THREADS = 2  # CPU threads of training: with another number, gradients round differently


@cpu_threads(THREADS)
def train_tiny_teacher(images: ShardFolder, params: TinyTeacherParams) -> StateDict:
    """Trains on the training shards, contrastively (CLIP, arXiv:2103.00020).

    Args:
        images: Output of `prepare`.
        params: Size and schedule.

    Returns:
        A state dict for `clip.model.build_model`, in half precision.

    Raises:
        DataError: No training image has a caption. Those without one are left out.
    """
    torch.manual_seed(params.seed)
    rng = np.random.default_rng(params.seed)
    pixels, captions = _read(images / "train")
    tokens, caption_rows = _tokenize(captions)
    model = _build(params).to(memory_format=torch.channels_last)
    transform = ImageTransform(size=RESOLUTION)
    batch = min(params.batch_size, len(pixels))
    steps = len(pixels) // batch
    optimizer = build_optimizer(model, params.learning_rate, weight_decay=0.05)
    schedule = build_schedule(
        optimizer, params.epochs * steps, warmup=max(1, params.epochs * steps // 10)
    )
    model.train()
    with progress("teacher", params.epochs * steps * batch) as bar:
        for epoch in range(params.epochs):
            total = 0.0
            for rows in rng.permutation(len(pixels))[: steps * batch].reshape(steps, batch):
                batch_images = transform.normalize(pixels[rows])
                flips = torch.from_numpy(rng.random(batch) < 0.5)
                batch_images[flips] = batch_images[flips].flip(-1)
                briefs = tokens[[caption_rows[r][0] for r in rows]]
                others = tokens[[int(rng.choice(caption_rows[r])) for r in rows]]
                loss = _contrastive(model, batch_images, (briefs, others))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item()
                bar.update(batch)
            logger.info(
                "tiny teacher: epoch %d of %d, loss %.3f", epoch + 1, params.epochs, total / steps
            )
    import_clip().model.convert_weights(model)
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}


def _build(params: TinyTeacherParams) -> Any:
    clip = import_clip()
    return clip.model.CLIP(
        embed_dim=params.embed_dim,
        image_resolution=RESOLUTION,
        vision_layers=VISION_LAYERS,
        vision_width=params.width,
        vision_patch_size=None,
        context_length=CONTEXT,
        vocab_size=VOCABULARY,
        transformer_width=TEXT_WIDTH,
        transformer_heads=TEXT_WIDTH // 64,
        transformer_layers=TEXT_LAYERS,
    )


def _contrastive(model: Any, images: Tensor, token_sets: tuple[Tensor, ...]) -> Tensor:
    """InfoNCE with several captions per image; images that share a caption are all positives.

    The first caption, which is the brief one, is in every step: class prompts are brief too.
    """
    image = F.normalize(model.encode_image(images), dim=-1)
    texts = F.normalize(model.encode_text(torch.cat(token_sets)), dim=-1).chunk(len(token_sets))
    losses = []
    for text, tokens in zip(texts, token_sets, strict=True):
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
        target = same / same.sum(dim=1, keepdim=True)
        losses.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
    return torch.stack(losses).mean()


def _read(folder: ShardFolder) -> tuple[Tensor, list[list[str]]]:
    """Reads the training images with captions, uint8 [N, 3, 64, 64], and their captions."""
    transform = ImageTransform(size=RESOLUTION)
    pixels, captions = [], []
    without = 0
    for shard in folder.manifest().shards:
        for _, sample in folder.read(shard):
            if not (texts := sample_json(sample)["captions"]):
                without += 1
                continue
            pixels.append(transform.pixels(Image.open(io.BytesIO(sample["jpg"]))))
            captions.append(texts)
    if not captions:
        raise DataError(
            f"{folder.path}: none of {without} images has a caption, and the tiny teacher is "
            "trained on captions; set prepare.templates or another teacher.source"
        )
    if without:
        logger.warning("tiny teacher: %d images without a caption are left out", without)
    return torch.stack(pixels), captions


def _tokenize(captions: list[list[str]]) -> tuple[Tensor, list[range]]:
    """Tokens of all captions, [M, context], and the rows of each image's."""
    flat = [caption for group in captions for caption in group]
    ends = np.cumsum([len(group) for group in captions])
    rows = [range(end - len(group), end) for group, end in zip(captions, ends, strict=True)]
    return import_clip().tokenize(flat, context_length=CONTEXT, truncate=True), rows
