"""KDEOVModel: a small image tower in the embedding space of CLIP's frozen text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdeov.data.boxes import Boxes, to_pixels_and_boxes
from kdeov.data.inputs import Images, to_pixels
from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, DataError, first_line
from kdeov.models.student import VisualStudent
from kdeov.text.base import TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.load import load_text_encoder, save_text_encoder
from kdeov.weights.device import usable_device
from kdeov.weights.digests import read_description, write_description
from kdeov.weights.folder import model_folder, replacing_files
from kdeov.weights.state_dict import write_tensors

FORMAT = 2
CONFIG, STUDENT = "config.json", "student.safetensors"
FIX = "save it again"
MAX_SIDE = 4096  # pixels


class KDEOVModel(nn.Module):
    """A distilled open-vocabulary model.

    Images may be given as PIL images of any mode, as uint8 arrays [H, W, 3] or tensors [3, H, W]
    (all are resized and normalized) or as floats that are normalized already, of any size
    (see `kdeov.data.inputs.to_pixels`): one, several in a list, or a batch in one array. Texts are
    strings or tokens [N, context]. What is neither is a `KdeovError`.

    Args:
        clip_model_name: The CLIP whose text tower is used: a name of `clip.available_models()` or a
            weight file.
        backbone_type: See `LightweightVisualBackbone`.
        fusion_type: `film` or `cross_attention`.
        device: Device of the model; CUDA where there is one, by default.
        backbone_weights: Pretrained weights of the backbone, or None for random ones.
        image_size: Side to which images are resized, pixels.

    Raises:
        KdeovError: Unknown names, or weights that cannot be read or downloaded.
    """

    def __init__(
        self,
        clip_model_name: str | Path = "ViT-B/32",
        backbone_type: str = "yolov8n",
        fusion_type: str = "film",
        device: str | torch.device | None = None,
        *,
        backbone_weights: str | Path | None = None,
        image_size: int = 224,
    ):
        whole = isinstance(image_size, Integral) and image_size is not True
        if not whole or not 1 <= image_size <= MAX_SIDE:
            raise ConfigError(f"image_size is {image_size!r}; give 1 to {MAX_SIDE} pixels a side")
        target = usable_device(device)
        text_encoder = FrozenCLIPTextEncoder(clip_model_name)
        dim, transform = text_encoder.embed_dim, ImageTransform(size=int(image_size))
        student = VisualStudent(backbone_type, fusion_type, dim, backbone_weights)
        self._assemble(student, text_encoder, transform, clip_model_name)
        self.to(target)

    @classmethod
    def from_parts(
        cls,
        student: VisualStudent,
        text_encoder: TextEncoder,
        transform: ImageTransform,
        clip_model_name: str,
    ) -> KDEOVModel:
        """A model from existing parts.

        Raises:
            ConfigError: The widths of image and text space differ.
        """
        model = cls.__new__(cls)
        model._assemble(student, text_encoder, transform, clip_model_name)
        return model

    def _assemble(
        self,
        student: VisualStudent,
        text_encoder: TextEncoder,
        transform: ImageTransform,
        clip_model_name: str | Path,
    ) -> None:
        if student.embed_dim != text_encoder.embed_dim:
            raise ConfigError(
                f"the student's embedding has {student.embed_dim} dimensions and "
                f"{clip_model_name}'s texts have "
                f"{text_encoder.embed_dim}; train the student on this teacher"
            )
        super().__init__()
        self.student = student
        self.text_encoder = text_encoder
        self.transform = transform
        self.clip_model_name = str(clip_model_name)

    @property
    def device(self) -> torch.device:
        """The device of the student."""
        return next(self.student.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the student, in which all embeddings are."""
        return next(self.student.parameters()).dtype

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space, D."""
        return self.student.embed_dim

    def preprocess(self, images: Images) -> Tensor:
        """Images to normalized pixels [B, 3, H, W] of the student's dtype, on its device."""
        return to_pixels(images, self.transform).to(self.device, self.dtype)

    def encode_image(self, images: Images, normalize: bool = True) -> Tensor:
        """Index embeddings [B, D], unit length if `normalize`; they depend on the images alone."""
        embedding = self.student(self.preprocess(images))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_regions(self, images: Images, boxes: Boxes, normalize: bool = True) -> Tensor:
        """Embeddings [B, R, D] of boxes [B, R, 4] in pixels of the images as given, which are cut
        at the edges of what the model sees (see `to_pixels_and_boxes`); unit length if `normalize`.
        """
        pixels, inside = to_pixels_and_boxes(images, boxes, self.transform)
        embedding = self.student.encode_regions(self.preprocess(pixels), inside.to(self.device))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Text embeddings [N, D] of the frozen CLIP, of unit length if `normalize`."""
        embedding = self.text_encoder(texts).to(self.device, self.dtype)
        if not len(embedding):
            raise ConfigError("no text was given; give at least one")
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def dense_features(self, images: Images) -> Tensor:
        """Dense maps [B, D, H/8, W/8] (or what stride the backbone's finest level has), whose mean
        over locations is `encode_image(normalize=False)`.
        """
        return self.student.dense(self.preprocess(images))

    @torch.no_grad()
    def heatmap(self, images: Images, texts: Sequence[str] | Tensor) -> Tensor:
        """Cosine of every location with every text, [B, T, H, W], at the size of the (preprocessed)
        images. Texts may be given as embeddings, float [T, D], such as classifier weights.
        """
        pixels = self.preprocess(images)
        if not (isinstance(texts, Tensor) and texts.is_floating_point()):
            return self.student.heatmap(pixels, self.encode_text(texts))
        if texts.shape[1:] != (self.embed_dim,) or not len(texts):
            raise ConfigError(
                f"embeddings of texts of shape {tuple(texts.shape)}; give [T, {self.embed_dim}]"
            )
        return self.student.heatmap(pixels, F.normalize(texts.to(pixels), dim=-1))

    @torch.no_grad()
    def zero_shot_classify(
        self,
        images: Images,
        class_names: Sequence[str] | Mapping[Any, str],
        templates: Sequence[str] | str = ("a photo of a {}.",),
    ) -> Tensor:
        """Logits [B, K]: CLIP's scale times the cosine with each class's averaged prompts.

        Names may be the values of a mapping, and templates the name of a set of `kdeov.prompts`.
        """
        classes = self.text_encoder.class_embeddings(class_names, templates)
        image = self.encode_image(images)
        return self.text_encoder.logit_scale.exp().to(image) * image @ classes.to(image).T

    @torch.no_grad()
    def compute_similarity(self, images: Images, texts: Sequence[str]) -> Tensor:
        """Cosines of images with texts, [B, T]."""
        return self.encode_image(images) @ self.encode_text(texts).T

    @torch.no_grad()
    def rank(self, images: Images, text: str, rerank: int = 0) -> tuple[Tensor, Tensor]:
        """Orders images by their similarity to a text.

        Args:
            images: The images to search, B of them.
            text: The query.
            rerank: Number of first hits that the fusion module reorders.

        Returns:
            Indices of the images, best first, and their scores in that order: cosines of the
            index embedding, and for the re-ranked ones of the fused embedding; both [B].
        """
        if not isinstance(rerank, Integral) or rerank is True or rerank < 0:
            raise ConfigError(f"rerank is {rerank!r}; give a number of hits, or 0")
        pixels, query = self.preprocess(images), self.encode_text(text)
        if len(query) > 1:
            raise ConfigError(f"{len(query)} texts; rank takes one query, call it for each")
        scores, order = (self.encode_image(pixels) @ query[0]).sort(descending=True, stable=True)
        if rerank:
            top = order[:rerank]
            fused = self.student.fused_scores(pixels[top], query)
            fused, inner = fused.sort(descending=True, stable=True)
            order = torch.cat([top[inner], order[rerank:]])
            scores = torch.cat([fused, scores[rerank:]])
        return order, scores

    def forward(self, images: Images, texts: Sequence[str] | Tensor) -> dict[str, Tensor]:
        """Embeds images with one text each.

        Returns:
            `image_embeds` and `text_embeds` [B, D], unit length; `fused_embeds` [B, D], the
            images conditioned on their texts; `logits` [B, B], scaled cosines of all images with
            all texts.
        """
        text, pixels = self.encode_text(texts), self.preprocess(images)
        if len(text) != len(pixels):
            raise ConfigError(f"{len(pixels)} images and {len(text)} texts; give one text each")
        output = self.student.with_dense(pixels)
        image = F.normalize(output.embedding, dim=-1)
        return {
            "image_embeds": image,
            "text_embeds": text,
            "fused_embeds": F.normalize(self.student.fusion(output.dense, text).embedding, dim=-1),
            "logits": self.text_encoder.logit_scale.exp().to(image) * image @ text.T,
        }

    def config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "format": FORMAT,
            "clip_model_name": self.clip_model_name,
            "backbone_type": self.student.backbone.backbone_type,
            "fusion_type": self.student.fusion.fusion_type,
            "embed_dim": self.embed_dim,
            "transform": self.transform.to_dict(),
        }

    def save(self, folder: str | Path) -> None:
        """Writes `student.safetensors`, the text encoder, and `config.json` with their digests. A
        model that is in the folder already is replaced once the new one is written completely.

        Raises:
            ConfigError: The model could not be loaded again (see `VisualStudent.plain_state`).
            StorageError: The disk is full or the folder cannot be written; it is as before.
        """
        with replacing_files(model_folder(folder)) as partial:
            write_tensors(partial / STUDENT, self.student.plain_state())
            save_text_encoder(self.text_encoder, partial)
            files = [p.relative_to(partial).as_posix() for p in partial.rglob("*") if p.is_file()]
            write_description(partial / CONFIG, self.config(), files)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device | None = None) -> KDEOVModel:
        """Reads the files of `save`; the model is in evaluation mode.

        The files are compared with their digests; a folder that was saved without them, by an
        older version, is read with a warning.

        Raises:
            DataError: The folder is not a saved model, or one of its files is damaged.
        """
        folder, target = model_folder(folder), usable_device(device)
        if not (folder / CONFIG).is_file():
            raise DataError(
                f"{folder}: not a saved KDEOVModel (no {CONFIG}); give one that `save` or "
                "`dvc repro distill` wrote; kdeov.Model opens exports"
            )
        config = read_description(folder / CONFIG, FIX)
        try:
            student_state = load_file(folder / STUDENT)
            text_encoder = load_text_encoder(folder)
        except (OSError, ValueError, LookupError, SafetensorError) as error:
            raise DataError(f"{folder}: not a saved KDEOVModel ({error}); {FIX}") from error
        if config.get("format") != FORMAT:
            raise DataError(
                f"{folder / CONFIG}: format {config.get('format')}, expected {FORMAT}; {FIX}"
            )
        try:
            student = VisualStudent(
                config["backbone_type"], config["fusion_type"], config["embed_dim"]
            )
            student.load_state_dict(student_state)
            transform = ImageTransform.from_dict(config["transform"])
            model = cls.from_parts(student, text_encoder, transform, config["clip_model_name"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{folder}: config and weights do not fit ({first_line(error)}); {FIX}"
            ) from error
        return model.to(target).eval()
