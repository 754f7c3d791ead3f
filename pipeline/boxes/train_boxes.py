"""Stage `train_boxes`: a box head on the student's trunk, and the score of its detections."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from kdeov.detection.coco import COCO_CLASSES
from kdeov.detection.detector import NONE, PRETRAINED, Detector, save_none
from kdeov.detection.head import BoxHead
from kdeov.detection.pretrained import PretrainedHead
from kdeov.errors import ConfigError, DataError
from kdeov.models.model import KDEOVModel
from kdeov.models.yolo import YOLOS
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord, runs_storage, write_history
from pipeline.boxes.config import BoxConfig
from pipeline.boxes.fit import choose_margin, fit_scores
from pipeline.boxes.samples import Census
from pipeline.boxes.trainer import check_workers, train
from pipeline.boxes.vocabulary import build_vocabulary
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import code_digest, fingerprint
from pipeline.runtime.device import pick_device
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.checked import checked_json, fix_of
from pipeline.storage.files import sha256_file, write_text, writing_folder
from pipeline.training.history import history_csv
from pipeline.training.launch import launch
from pipeline.training.state import EpochMetrics

logger = logging.getLogger(__name__)

METRICS, CURVE = "train_boxes.json", "boxes_history.csv"


def train_boxes(params: Params, paths: Layout) -> None:
    """Trains a box head, or takes the pretrained one, and writes `out/boxes/`,
    `metrics/train_boxes.json` and `metrics/boxes_history.csv`. Data without boxes have no head.

    Raises:
        KdeovError: Params, data and student do not fit together, or training stopped.
    """
    p = params.train_boxes
    dataset = Dataset.read(paths.images)
    if p.kind == NONE or not dataset.object_classes:
        if p.kind != NONE:
            logger.info("%s has no boxes: there is no box head", dataset.name)
        with writing_folder(paths.boxes) as folder:
            save_none(folder)
        _write_metrics(paths, {"kind": NONE}, [])
        return
    config = box_config(params, paths, dataset)
    config.run.require_writable()
    record = RunRecord.read(paths.student)
    model = KDEOVModel.load(paths.student, pick_device(config.cluster.use_gpu))
    counted = {split: _census(config, split) for split in ("train", "val")}
    metrics: dict[str, Any] = {"kind": p.kind, "epochs": 0}
    history: list[EpochMetrics] = []
    head: BoxHead | PretrainedHead
    if p.kind == PRETRAINED:
        weights = params.distill.backbone_weights
        if weights is None:
            raise ConfigError(
                "train_boxes.kind is pretrained, and distill.backbone_weights names no file; "
                "give that of a YOLO, or set train_boxes.kind to trained"
            )
        head = PretrainedHead.of(model.student.backbone, weights)
    else:
        head, history, facts = _train(config, model, dataset, counted["train"], record, paths)
        metrics |= facts
    detector = Detector(
        model.student, head, None, p.image_size, boxes_seen(record, dataset, p.kind)
    )
    detector.to(model.device).eval()
    classes = model.text_encoder.class_embeddings(config.classes, p.templates).to(model.device)
    classes = classes.float()
    val = config.shards("val")
    detector.region_margin, top1 = choose_margin(model.student, val, classes, p.image_size)
    detector.params, ap50 = fit_scores(detector, val, classes)
    metrics |= {
        "val_base_ap50": ap50,
        "val_true_box_top1": top1,
        "region_margin": detector.region_margin,
        "score": detector.params.to_dict(),
        "parameters": sum(value.numel() for value in head.parameters()),
        "image_size": p.image_size,
        "boxes_seen": len(detector.boxes_seen),
        **{f"{split}_split": census.to_dict() for split, census in counted.items()},
    }
    logger.info(
        "AP50 of base classes on the val split %.3f, with a %.1f, b %.1f, beta %.2f, margin %.1f",
        ap50, detector.params.scale, detector.params.bias, detector.params.beta,
        detector.region_margin,
    )  # fmt: skip
    with writing_folder(paths.boxes) as folder:
        detector.save(folder)
    _write_metrics(paths, metrics, history)


def box_config(params: Params, paths: Layout, dataset: Dataset) -> BoxConfig:
    """The configuration that params ask for; its run folder is still the one of all runs.

    Raises:
        DataError: The data has no classes with boxes.
    """
    if not dataset.base_objects:
        raise DataError(
            f"{paths.images}: this data has no boxes of base classes; set train_boxes.kind to "
            f"none, or {fix_of('prepare')} where it was prepared before boxes were read"
        )
    return BoxConfig(
        params=params.train_boxes,
        images=paths.images,
        student=paths.student,
        classes=dataset.base_objects,
        run=runs_storage(params, paths),
        cluster=params.cluster,
        storage=params.data.storage,
    )


def boxes_seen(record: RunRecord, dataset: Dataset, kind: str) -> list[str]:
    """Classes whose boxes trained the trunk, the neck or the head.

    Published weights of a YOLO were trained on the boxes of COCO's 80 classes.
    """
    distill = record.params["distill"]
    pretrained = bool(distill.get("backbone_weights")) and distill["backbone"] in YOLOS
    own = [] if kind == PRETRAINED else dataset.base_objects
    return [*own, *(name for name in COCO_CLASSES if pretrained and name not in own)]


def _census(config: BoxConfig, split: str) -> Census:
    """Counts the boxes of a split, and names what is wrong with them.

    Raises:
        DataError: None can be used.
    """
    shards = config.shards(split)
    census = Census.of(shards)
    for problem, count in sorted(census.problems.items()):
        logger.warning(
            "%s: %d boxes are %s: %s; %s", shards.images.path, count, problem,
            ", ".join(census.examples[problem]),
            "clipped" if problem == "partly outside" else "left out",
        )  # fmt: skip
    if census.empty_classes:
        names = census.empty_classes
        logger.warning(
            "%s: %d classes have no box: %s%s", shards.images.path, len(names),
            ", ".join(names[:5]), ", ..." if len(names) > 5 else "",
        )  # fmt: skip
    if not census.boxes.total():
        raise DataError(
            f"{shards.images.path}: no box of {len(shards.numbers)} base classes can be used "
            f"(of {census.images} images); check the annotations, or set train_boxes.kind to none"
        )
    return census


def _train(
    config: BoxConfig,
    model: KDEOVModel,
    dataset: Dataset,
    census: Census,
    record: RunRecord,
    paths: Layout,
) -> tuple[BoxHead, list[EpochMetrics], dict[str, Any]]:
    check_workers(config, config.cluster.most_processes)
    vocabulary = build_vocabulary(config, model, census, dataset.object_classes)
    config = replace(config, vocabulary=vocabulary)
    value = _fingerprint(config, record, paths)
    config = replace(config, run=config.run / value)
    name = f"boxes-{value[:4]}"
    logger.info("run %s, fingerprint %s", name, value)
    with RunLock(config.run):
        launch(config, name, NoLog(), train)
    state = config.checkpoints.latest()
    if state is None or state["epoch"] != config.params.epochs:
        raise DataError(
            f"{config.run.address}: training ended without its last checkpoint; run `dvc repro` "
            "again"
        )
    head = BoxHead(model.student.backbone.channels, model.student.backbone.strides)
    head.load_state_dict(state["head"])
    history = state["history"]
    write_history(config.run, value, history)
    last = history[-1]
    return head, history, {
        "fingerprint": value,
        "epochs": last["epoch"],
        "train_loss": last["train_total"],
        "val_recall": last["val_recall"],
        "val_iou": last["val_iou"],
        "ignored_anchors_per_image": last["train_ignored"],
        "likeness_threshold": vocabulary.threshold if vocabulary else None,
    }  # fmt: skip


def _fingerprint(config: BoxConfig, record: RunRecord, paths: Layout) -> str:
    return fingerprint(
        train_boxes=config.params.model_dump(mode="json"),
        manifests={
            split: sha256_file(paths.images / split / "manifest.json") for split in ("train", "val")
        },
        classes=config.classes,
        student=record.fingerprint,
        code=code_digest(paths.root, "train_boxes"),
    )


class NoLog:
    """Epochs are in the log and the history; the report shows them afterwards."""

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Does nothing."""

    def log_epochs(self, history: list[EpochMetrics]) -> None:
        """Does nothing."""


def _write_metrics(paths: Layout, metrics: dict[str, Any], history: list[EpochMetrics]) -> None:
    write_text(paths.metrics / METRICS, checked_json(metrics).decode())
    columns: list[EpochMetrics] = history or [{"epoch": 0, "train_total": 0.0, "val_recall": 0.0}]
    text = history_csv(columns)
    write_text(paths.metrics / CURVE, text if history else text.splitlines()[0] + "\n")
