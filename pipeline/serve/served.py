"""An opened model as requests use it: single items in, computed in batches."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kdeov.errors import ConfigError
from kdeov.runtime.detections import Detections, Regions, Selection
from pipeline.inference.models import MLFLOW_SCHEMES, ExportedModel, open_model
from pipeline.serve.batcher import MicroBatcher
from pipeline.serve.class_cache import ClassCache
from pipeline.serve.settings import Settings

PROMPTS = 64  # of a turn of the text side; other requests have theirs between
DETECTED = 4  # images of a pass of the box head, one after the other
AS_WRITTEN = ("{}",)  # a text is a sentence, no name of a class

OnBatch = Callable[[str, int], object]


class ServedModel:
    """An export with its batchers. Requests hold it from their start to their end, so that another
    model may take its place meanwhile.

    Args:
        model: The export.
        address: Where it is from, for people.
        settings: Limits.
        on_batch: Called with the kind and the size of each batch.
        copy: Folder of a downloaded model, which is deleted at the end.
    """

    def __init__(
        self,
        model: ExportedModel,
        address: str,
        settings: Settings,
        on_batch: OnBatch,
        copy: Path | None = None,
    ) -> None:
        self.model, self.address, self._copy = model, address, copy
        self.background = model.background()
        self.boxes = model.has_boxes
        self.active = 0
        self._classes = ClassCache(model.class_embeddings)

        def batcher(kind: str, run: Callable, size: int) -> MicroBatcher:  # type: ignore[type-arg]
            wait_s = settings.batch_wait_s if size > 1 else 0
            return MicroBatcher(run, size, wait_s, lambda count: on_batch(kind, count))

        self._embed: MicroBatcher[np.ndarray, np.ndarray]
        self._embed = batcher("embed", self._embedded, settings.batch_size)
        self._regions: MicroBatcher[Image.Image, Regions]
        self._regions = batcher("detect", self._proposed, DETECTED)
        self._texts: MicroBatcher[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray]
        self._texts = batcher("texts", self._labelled, 1)
        self._maps: MicroBatcher[tuple[Image.Image, np.ndarray], np.ndarray]
        self._maps = batcher("heatmap", self._mapped, 1)

    @classmethod
    def open(cls, address: str | None, settings: Settings, on_batch: OnBatch) -> ServedModel:
        """Opens and tests an export; blocks for about a second.

        Args:
            address: See `pipeline.inference.models.open_model`.
            settings: Limits.
            on_batch: See the class.

        Raises:
            KdeovError: There is no such export, or it is damaged.
        """
        copy = None
        if address is not None and address.startswith(MLFLOW_SCHEMES):
            from pipeline.tracking.download import download_model

            copy = download_model(address)
            model = open_model(str(copy))
        else:
            model = open_model(address)
        if not isinstance(model, ExportedModel):
            raise ConfigError(
                f"--model {address}: a student folder is no export; `kdeov export {address} -o "
                "OUT` writes one"
            )
        if model.has_boxes:
            model.open_boxes()
        # the text side and the dense tower are opened now, not by the first request
        first = model.class_embeddings(["image"], AS_WRITTEN) if model.has_tower else None
        if first is not None:
            model.heatmap(Image.new("RGB", (32, 32)), first)
        shown = address if copy is not None else Path(address or "out/export").name
        return cls(model, str(shown), settings, on_batch, copy)

    async def embed(self, image: Image.Image) -> np.ndarray:
        """The unit embedding float32 [D] of an image."""
        return await self._embed(await asyncio.to_thread(self.model.preprocess, image))

    async def classes(
        self, labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> np.ndarray:
        """Classifier weights float32 [K, D] of labels, by the export's templates where none are
        given.
        """
        prompts = tuple(self.model.templates if templates is None else templates)
        step = max(1, PROMPTS // len(prompts))
        rows: list[np.ndarray] = []
        for start in range(0, len(labels), step):
            group = tuple(labels[start : start + step])
            known = self._classes.known(group, prompts)
            rows.append(await self._texts((group, prompts)) if known is None else known)
        return np.concatenate(rows)

    async def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings float32 [N, D] of texts as they are."""
        return await self.classes(texts, AS_WRITTEN)

    async def detect(
        self, image: Image.Image, labels: Sequence[str], selection: Selection
    ) -> tuple[Detections, tuple[int, int]]:
        """Objects of some classes in an image, and its size in pixels."""
        classes = await self.classes(labels)
        regions = await self._regions(image)
        found = await asyncio.to_thread(self.model.score, regions, classes, selection)
        return found, regions.size

    async def heatmap(self, image: Image.Image, text: str) -> np.ndarray:
        """Cosines [S, S] of the places of the centred square of an image with a text."""
        (row,) = await self.classes([text])
        return await self._maps((image, row))

    async def close(self) -> None:
        """Ends the threads, and deletes a downloaded copy."""
        for batcher in (self._embed, self._regions, self._texts, self._maps):
            await batcher.close()
        if self._copy is not None:
            await asyncio.to_thread(shutil.rmtree, self._copy, ignore_errors=True)

    def _embedded(self, pixels: list[np.ndarray]) -> np.ndarray:
        return self.model.embed_pixels(np.stack(pixels))

    def _proposed(self, images: list[Image.Image]) -> list[Regions]:
        return [self.model.propose(image) for image in images]

    def _labelled(self, keys: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> list[np.ndarray]:
        return [self._classes.embed(labels, prompts) for labels, prompts in keys]

    def _mapped(self, items: list[tuple[Image.Image, np.ndarray]]) -> list[np.ndarray]:
        return [self.model.heatmap(image, row[None])[0] for image, row in items]
