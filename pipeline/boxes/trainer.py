"""One rank of a training of boxes: its steps and its validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.detection.augment import BoxAugmentation
from kdeov.detection.boxes import paired_iou
from kdeov.detection.head import BoxHead
from kdeov.detection.losses import BoxTargets
from kdeov.detection.nms import class_wise_nms
from kdeov.models.model import KDEOVModel
from kdeov.training.box_step import BoxStep
from kdeov.training.distributed import sum_over_ranks
from kdeov.training.optim import build_optimizer
from pipeline.boxes.config import BoxConfig
from pipeline.boxes.samples import BoxSample
from pipeline.boxes.stream import BoxBatch, BoxEvaluationStream, BoxStream
from pipeline.config.batch_sharing import check_sharing
from pipeline.data.loader import epoch_loader
from pipeline.runtime.device import cpu_threads, tuned_convolutions
from pipeline.runtime.prefetch import prefetched
from pipeline.training.loop import TRAIN_THREADS, Report, run_epochs
from pipeline.training.rank import RankTrainer
from pipeline.training.state import EpochMetrics, TrainState
from pipeline.training.trainer import check_samples

TOP = 10  # boxes of an image that validation looks at
RIGHT, NMS_IOU = 0.5, 0.5


class BoxTrainer(RankTrainer[BoxConfig, BoxBatch]):
    """A training of boxes.

    Args:
        config: What to train on what, and how.
        restart_due: See `RankTrainer`.

    Raises:
        KdeovError: Params and data do not fit together.
    """

    section: ClassVar[str] = "train_boxes"

    def __init__(self, config: BoxConfig, restart_due: Callable[[], bool] = lambda: False) -> None:
        p = config.params
        self.train_shards, self.val_shards = config.shards("train"), config.shards("val")
        super().__init__(config, self.train_shards.manifest.sizes, restart_due)
        check_workers(config, self.world_size)
        self.transform = ImageTransform(size=p.image_size)
        self.augmentation = BoxAugmentation(p.image_size, p.mosaic, self.transform.interpolation)
        student = KDEOVModel.load(config.student, self.device).student
        torch.manual_seed(p.seed)
        self.head = BoxHead(student.backbone.channels, student.backbone.strides).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        words = config.vocabulary
        self.step = BoxStep(
            student.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            self.head,
            texts=None if words is None else torch.from_numpy(words.embeddings).to(self.device),
            threshold=1.0 if words is None else words.threshold,
            foreground=config.foreground,
        )
        optimizer = build_optimizer(self.head, p.learning_rate, p.weight_decay)
        model = nn.ModuleDict({"head": self.head})
        self.start(TrainState(model, "head", optimizer, p, self._plan.steps))

    def batches(self, from_step: int) -> Any:
        """See `RankTrainer`."""
        stream = BoxStream(
            self.train_shards, self.plan, self.augmentation, self.rank, self.world_size, from_step
        )
        workers = self.config.cluster.dataloader_workers
        loader = epoch_loader(stream, workers, pinned=self.device == "cuda")
        return prefetched(loader, lambda batch: batch.to(self.device), self.device)

    def train_step(self, batch: BoxBatch) -> float:
        """Updates the head once; returns this rank's loss.

        Raises:
            KdeovError: The loss, or its gradient, is not finite.
        """
        state, p = self.state, self.params
        state.optimizer.zero_grad(set_to_none=True)
        count = p.global_batch_size // p.micro_batch_size
        terms = self.step.backward(self._micro_batches(batch), count)
        # as in distillation, the mean over the ranks is the value of the step
        terms = {name: value * self.world_size for name, value in terms.items()}
        loss = self.clip_gradients(terms["total"], list(self.head.parameters()), batch.keys)
        state.take_step(terms)
        return loss

    @torch.no_grad()
    def validate(self) -> EpochMetrics:
        """`val_recall`, the share of the val split's boxes of base classes that one of an image's
        ten best boxes finds at an overlap of 0.5; `val_iou`, the mean overlap with the nearest one.
        """
        head = self.state.eval_model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        stream = BoxEvaluationStream(
            self.val_shards, self.params.image_size, self.rank, self.world_size
        )
        for sample, fit, pixels in stream:
            features = self.step.student.backbone(self._normalized(pixels[None]))
            boxes, logits = head(features)
            kept = class_wise_nms(boxes[0], logits[0, :, None].sigmoid(), NMS_IOU, 0.0, TOP)
            sums += _found(sample, fit.to_image(kept.boxes.cpu().numpy()))
        found, overlap, count = sum_over_ranks(sums.to(self.device)).tolist()
        return {"val_recall": found / max(count, 1), "val_iou": overlap / max(count, 1)}

    def describe(self, row: EpochMetrics) -> str:
        """See `RankTrainer`."""
        return f"validation recall {row['val_recall']:.3f}, overlap {row['val_iou']:.3f}"

    def _micro_batches(self, batch: BoxBatch) -> Iterator[tuple[Tensor, BoxTargets]]:
        for pixels, targets in batch.to(self.device).split(self.params.micro_batch_size):
            yield self._normalized(pixels), targets

    def _normalized(self, pixels: Tensor) -> Tensor:
        values = self.transform.normalize(pixels.to(self.device))
        return values.contiguous(memory_format=torch.channels_last)


def train(
    config: BoxConfig, report: Report, restart_due: Callable[[], bool] = lambda: False
) -> None:
    """Trains a box head to the end, from the newest checkpoint if there is one.

    Args:
        config: What to train on what, and where.
        report: Called on every rank with the metrics of each epoch.
        restart_due: See `RankTrainer`.

    Raises:
        KdeovError: The data do not fit, or the loss is no longer finite.
    """
    with cpu_threads(TRAIN_THREADS), tuned_convolutions():
        run_epochs(BoxTrainer(config, restart_due), report)


def check_workers(config: BoxConfig, workers: int) -> None:
    """Raises where so many workers cannot share the training data.

    Raises:
        ConfigError: There are fewer parts of a step, or fewer images, than workers.
    """
    p = config.params
    check_sharing(
        p.global_batch_size, p.num_streams, p.micro_batch_size, workers, section="train_boxes"
    )
    check_samples(len(config.shards("train")), workers)


def _found(sample: BoxSample, boxes: Any) -> Tensor:
    """Boxes of a sample that were found, the sum of their best overlaps, and their number."""
    true = torch.from_numpy(sample.boxes[~sample.crowd]).double()
    if not len(true) or not len(boxes):
        return torch.tensor([0, 0, len(true)], dtype=torch.float64)
    best = paired_iou(true[:, None], torch.as_tensor(boxes).double()[None]).amax(1)
    return torch.stack([(best >= RIGHT).double().sum(), best.sum(), best.new_tensor(len(true))])
