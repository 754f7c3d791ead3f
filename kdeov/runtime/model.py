"""A student from its export folder: embeds, classifies, localizes and detects without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.prompts import class_prompts
from kdeov.runtime.background import read_background
from kdeov.runtime.card import (
    DENSE,
    IMAGE,
    INT8,
    Card,
    read_card,
    require_file,
    require_transform,
    text_side,
)
from kdeov.runtime.detections import (
    DEFAULT_SELECTION,
    Detections,
    Regions,
    Selection,
    detections,
)
from kdeov.runtime.golden import (
    read_golden,
    require_equal_embeddings,
    require_equal_heatmaps,
)
from kdeov.runtime.images import (
    Images,
    OneImage,
    converted_images,
    pad_to_stride,
    pixel_batches,
    square_pixels,
)
from kdeov.runtime.proposals import Proposer
from kdeov.runtime.session import Providers, Session
from kdeov.runtime.texts import Texts, given_embeddings, open_texts
from kdeov.weights.folder import user_path

FOLDER = "out/export"
FILES = {"fp32": IMAGE, "int8": INT8}
GOLDEN_EMBEDDING = {"fp32": "embedding", "int8": "int8_embedding"}
SIMPLE = ("a photo of a {}.",)
BATCH = 16  # images of a pass
HEATMAPS = 256  # of a pass: images times texts


class Model:
    """A student in onnxruntime; `Model.open` makes one.

    Images may be given as paths, PIL images of any mode, or uint8 or uint16 arrays [H, W],
    [H, W, C] or [B, H, W, 3]: one, or several in any iterable, which is read a batch at a time.
    What is none of that is a `KdeovError`, and so is an image that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        card: Card,
        image: Session,
        texts: tuple[Path, Card],
        settings: tuple[Providers, int | None],
    ):
        self.folder = folder
        self.card = card
        self._image = image
        self._text_folder, self._text_card = texts
        self._settings = settings
        self._size: int = card.transform["size"]
        self._interpolation: str = card.transform["interpolation"]

    @classmethod
    def open(
        cls,
        folder: str | Path = FOLDER,
        *,
        precision: Literal["fp32", "int8"] = "fp32",
        providers: Providers = None,
        threads: int | None = None,
        text: str | Path | None = None,
    ) -> Model:
        """Opens an export and compares its image tower with the golden outputs of PyTorch.

        The dense tower and the texts are opened, and compared, when they are first used.

        Args:
            folder: What `dvc repro export` or `kdeov export` wrote.
            precision: `int8` is smaller and faster; heat maps are float32 in any case.
            providers: onnxruntime's providers, best first, such as `CUDA` or `CoreML`; None takes
                the best one that is available.
            threads: Threads of one pass on the CPU; None leaves the number to onnxruntime.
            text: Another export, whose texts are used; they must be of the same text space.

        Raises:
            ConfigError: An unknown precision or provider.
            DataError: A file is missing or damaged, or gives other outputs than at export.
        """
        if not isinstance(precision, str) or precision not in FILES:
            raise ConfigError(f"precision {precision!r} is unknown; choose fp32 or int8")
        folder = user_path(folder)
        card = read_card(folder)
        require_transform(card, folder)
        texts = text_side(folder, card, text)
        if precision == "int8" and INT8 not in card.files:
            raise DataError(
                f"{folder}: exported without {INT8}; export again with images to calibrate on, or "
                "open it with precision='fp32'"
            )
        path = require_file(folder, card, FILES[precision])
        image = Session(path, ["embedding"], providers, threads)
        pixels, golden = read_golden(folder, card, "pixels", GOLDEN_EMBEDDING[precision])
        require_equal_embeddings(image(pixels=pixels)[0], golden, image)
        return cls(folder, card, image, texts, (providers, threads))

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space, D."""
        return self.card.embed_dim

    @property
    def image_digest(self) -> str:
        """sha256 of the file that embeds images."""
        return self.card.files[self._image.path.name]

    @property
    def provider(self) -> str:
        """Name of onnxruntime's provider that runs the image tower, such as `CPU`."""
        return self._image.provider

    def embed_image(self, images: Images) -> np.ndarray:
        """Index embeddings of B images, float32 [B, D], unit length."""
        return np.concatenate(
            [self._image(pixels=pixels)[0] for pixels in self._pixels(images, BATCH)]
        )

    def preprocess(self, image: OneImage) -> np.ndarray:
        """The centred square of one image, uint8 [3, S, S]; `embed_pixels` takes several."""
        return square_pixels(image, self._size, self._interpolation)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Index embeddings float32 [B, D] of preprocessed images, uint8 [B, 3, S, S]."""
        fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 4
        if not fits or pixels.shape[1] != 3 or not pixels.size:
            raise ConfigError(
                "pixels are no uint8 array [B, 3, S, S]; stack what `preprocess` gives"
            )
        return self._image(pixels=pad_to_stride(pixels, self.card.stride))[0]

    def embed_text(self, texts: Any) -> np.ndarray:
        """Embeddings of N texts, float32 [N, D], unit length."""
        return self._texts(texts)

    def class_embeddings(self, labels: Any, templates: Any = SIMPLE) -> np.ndarray:
        """Zero-shot classifier weights, float32 [K, D], unit length.

        Args:
            labels: K class names, or a mapping whose values are names.
            templates: Prompts with one `{}` each, or the name of a set of `kdeov.prompts`.

        Raises:
            ConfigError: Names or templates that name nothing.
        """
        return self._texts.class_embeddings(labels, templates)

    def classify(self, images: Images, labels: Any, templates: Any = SIMPLE) -> np.ndarray:
        """Probabilities of K classes for each of B images, float32 [B, K].

        Args:
            images: See the class.
            labels: As in `class_embeddings`, or its result, float [K, D], for many calls.
            templates: As in `class_embeddings`; of no effect on embeddings.

        Raises:
            ConfigError: Names or templates that name nothing, or embeddings of another width.
            DataError: An image cannot be read.
        """
        given = given_embeddings(labels, self.embed_dim)
        classes = self.class_embeddings(labels, templates) if given is None else given
        logits = self.card.text.logit_scale * (self.embed_image(images) @ classes.T)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    def heatmap(self, images: Images, texts: Any) -> np.ndarray:
        """Cosines of every location with each of T texts, float32 [B, T, H, W].

        Args:
            images: See the class.
            texts: T texts, or embeddings, float [T, D], such as classifier weights.

        Returns:
            At the size of the preprocessed image: the centred square, `card.transform["size"]`
            pixels a side.

        Raises:
            ConfigError: What is no text, or embeddings of another width.
            DataError: An image cannot be read.
        """
        given = given_embeddings(texts, self.embed_dim)
        classes = self.embed_text(texts) if given is None else given
        batch = min(BATCH, max(1, HEATMAPS // len(classes)))
        maps = [
            self._dense(pixels=pixels, classes=classes)[0][..., : self._size, : self._size]
            for pixels in self._pixels(images, batch)
        ]
        return np.concatenate(maps)

    def propose(self, images: Images) -> list[Regions]:
        """Boxes of whatever may be an object in each of B images, with their embeddings. They
        depend on no class: `score` compares them with any number of vocabularies.

        Args:
            images: See the class.

        Raises:
            DataError: The export has no box head, or an image cannot be read.
        """
        return list(converted_images(images, self.proposer))

    def score(
        self,
        regions: Regions | Iterable[Regions],
        labels: Any,
        templates: Any = SIMPLE,
        selection: Selection = DEFAULT_SELECTION,
    ) -> list[Detections]:
        """The objects of K classes among the proposals of B images.

        Args:
            regions: What `propose` gives.
            labels: As in `classify`; thousands of names are fine.
            templates: As in `class_embeddings`; of no effect on embeddings.
            selection: Which scores count.

        Raises:
            ConfigError: Names or templates that name nothing, or embeddings of another width.
            DataError: The export has no box head.
        """
        card, classes = self.proposer.card, given_embeddings(labels, self.embed_dim)
        if classes is None:
            names = class_prompts(labels)
            classes = self.class_embeddings(names, templates)
        else:
            names = [str(number) for number in range(len(classes))]
        listed = [regions] if isinstance(regions, Regions) else regions
        return [detections(one, classes, names, card, selection) for one in listed]

    def detect(
        self,
        images: Images,
        labels: Any,
        templates: Any = SIMPLE,
        selection: Selection = DEFAULT_SELECTION,
    ) -> list[Detections]:
        """The objects of K classes in each of B images; see `propose` and `score`.

        Returns:
            Boxes in pixels of the upright image.
        """
        regions = converted_images(images, self.proposer)  # one image after the other
        return self.score(regions, labels, templates, selection)

    def background(self) -> np.ndarray | None:
        """Unit embeddings of images of the training data, float32 [N, D], with which scores of a
        search are compared; None in an export without.

        Raises:
            DataError: The file is damaged.
        """
        return read_background(self.folder, self.card)

    def _pixels(self, images: Images, batch_size: int) -> Iterator[np.ndarray]:
        return pixel_batches(images, self._size, self._interpolation, self.card.stride, batch_size)

    @cached_property
    def _dense(self) -> Session:
        path = require_file(self.folder, self.card, DENSE)
        session = Session(path, ["heatmap"], *self._settings)
        pixels, classes, golden = read_golden(
            self.folder, self.card, "pixels", "classes", "heatmap"
        )
        require_equal_heatmaps(session(pixels=pixels, classes=classes)[0], golden, session)
        return session

    @cached_property
    def proposer(self) -> Proposer:
        return Proposer(self.folder, self.card, *self._settings)

    @cached_property
    def _texts(self) -> Texts:
        return open_texts(self._text_folder, self._text_card, *self._settings)
