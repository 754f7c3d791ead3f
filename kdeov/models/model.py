"""KDEOVModel: a small image tower in the embedding space of CLIP's frozen text tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, DataError
from kdeov.models.fusion import fusion_scores
from kdeov.models.student import VisualStudent
from kdeov.text.base import TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.load import load_text_encoder, text_encoder_files
from kdeov.weights.digests import read_description, write_description
from kdeov.weights.state_dict import write_tensors

Images = Tensor | Image.Image | Sequence[Image.Image]
FORMAT = 2
CONFIG, STUDENT = "config.json", "student.safetensors"
FIX = "save the model again, or run `dvc repro -f distill` for that of a checkout"


class KDEOVModel(nn.Module):
    """A distilled open-vocabulary model.

    Images may be given as PIL images, as uint8 tensors [B, 3, H, W] (both are resized and
    normalised) or as float tensors that are normalised already, of any size. A single image may
    come without the batch dimension.

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
        text_encoder = FrozenCLIPTextEncoder(clip_model_name)
        student = VisualStudent(
            backbone_type, fusion_type, text_encoder.embed_dim, backbone_weights
        )
        self._assemble(student, text_encoder, ImageTransform(size=image_size), str(clip_model_name))
        self.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

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
        clip_model_name: str,
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
        self.clip_model_name = clip_model_name

    @property
    def device(self) -> torch.device:
        """The device of the student."""
        return next(self.student.parameters()).device

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space, D."""
        return self.student.embed_dim

    def preprocess(self, images: Images) -> Tensor:
        """Images to normalised pixels [B, 3, H, W] on the model's device.

        Raises:
            ConfigError: A tensor of another shape.
        """
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, Tensor):
            return torch.stack([self.transform(image) for image in images]).to(self.device)
        images = (images[None] if images.ndim == 3 else images).to(self.device)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"images of shape {tuple(images.shape)}; give [B, 3, H, W] or [3, H, W]"
            )
        if images.dtype == torch.uint8:
            side = (self.transform.size, self.transform.size)
            square = center_crop(images, [min(images.shape[-2:])] * 2)
            images = F.interpolate(square.float(), side, mode="bicubic", antialias=True)
            return self.transform.normalize(images.clamp(0, 255))
        return images

    def encode_image(self, images: Images, normalize: bool = True) -> Tensor:
        """Index embeddings [B, D], unit length if `normalize`; they depend on the images alone."""
        embedding = self.student(self.preprocess(images))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Text embeddings [N, D] of the frozen CLIP, of unit length if `normalize`."""
        embedding = self.text_encoder([texts] if isinstance(texts, str) else texts)
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
        dense = F.normalize(self.student.dense(pixels), dim=1)
        if isinstance(texts, Tensor) and texts.is_floating_point():
            embeddings = F.normalize(texts.to(dense), dim=-1)
        else:
            embeddings = self.encode_text(texts)
        maps = torch.einsum("bdhw,td->bthw", dense, embeddings)
        # cuts off the padding at the right and lower edges
        stride = self.student.backbone.strides[0]
        full = F.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)
        return full[..., : pixels.shape[-2], : pixels.shape[-1]]

    @torch.no_grad()
    def zero_shot_classify(
        self,
        images: Images,
        class_names: Sequence[str],
        templates: Sequence[str] = ("a photo of a {}.",),
    ) -> Tensor:
        """Logits [B, K]: CLIP's scale times the cosine with each class's averaged prompts."""
        classes = self.text_encoder.class_embeddings(class_names, templates)
        return self.text_encoder.logit_scale.exp() * self.encode_image(images) @ classes.T

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
        pixels, query = self.preprocess(images), self.encode_text([text])
        scores, order = (self.encode_image(pixels) @ query[0]).sort(descending=True, stable=True)
        if rerank:
            top = order[:rerank]
            dense = self.student.with_dense(pixels[top]).dense
            fused = fusion_scores(self.student.fusion, dense, query.expand(len(top), 1, -1))[:, 0]
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
        output = self.student.with_dense(self.preprocess(images))
        text = self.encode_text(texts)
        image = F.normalize(output.embedding, dim=-1)
        return {
            "image_embeds": image,
            "text_embeds": text,
            "fused_embeds": F.normalize(self.student.fusion(output.dense, text).embedding, dim=-1),
            "logits": self.text_encoder.logit_scale.exp() * image @ text.T,
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
        """Writes `student.safetensors`, the text encoder, and `config.json` with their digests."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / STUDENT, self.student.state_dict())
        self.text_encoder.save(folder)
        files = [STUDENT, *text_encoder_files(folder)]
        write_description(folder / CONFIG, self.config(), files)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device | None = None) -> KDEOVModel:
        """Reads the files of `save`; the model is in evaluation mode.

        The files are compared with their digests; a folder that was saved without them, by an
        older version, is read with a warning.

        Raises:
            DataError: The folder is not a saved model, or one of its files is damaged.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise DataError(
                f"{folder}: not a saved KDEOVModel (no {CONFIG}); run `dvc repro distill`"
            )
        config = read_description(folder / CONFIG, FIX)
        try:
            student_state = load_file(folder / STUDENT)
            text_encoder = load_text_encoder(folder)
        except (OSError, ValueError, LookupError, SafetensorError) as error:
            raise DataError(
                f"{folder}: not a saved KDEOVModel ({error}); run `dvc repro distill`"
            ) from error
        if config.get("format") != FORMAT:
            raise DataError(
                f"{folder}/config.json: format {config.get('format')}, expected {FORMAT}"
            )
        try:
            student = VisualStudent(
                config["backbone_type"], config["fusion_type"], config["embed_dim"]
            )
            student.load_state_dict(student_state)
            model = cls.from_parts(
                student,
                text_encoder,
                ImageTransform.from_dict(config["transform"]),
                config["clip_model_name"],
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{folder}: config and weights do not fit ({str(error).splitlines()[0]})"
            ) from error
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
