"""The schema of `params.yaml`: a section for each stage, and those that say where stages run.

The sections of stages have no defaults: the file holds every value that a number depends on, and
DVC watches it. Of the parts for sources and teachers, only the one in use is required.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from kdeov.errors import ConfigError, one_line
from pipeline.config.execution_params import ClusterParams, DataParams, TrackingParams
from pipeline.config.reading.explain import explain
from pipeline.config.reading.yaml_file import read_yaml
from pipeline.config.schema import Section, section_error
from pipeline.config.sections.train_boxes import TrainBoxesParams
from pipeline.config.stage_params import (
    DetectionParams,
    DistillParams,
    EfficiencyParams,
    EmbedParams,
    ExportParams,
    LinearProbeParams,
    PrepareParams,
    ReportParams,
    RetrievalParams,
    ZeroShotParams,
)
from pipeline.config.teacher_params import TeacherParams
from pipeline.storage.storage import check_address


class Params(Section):
    """The whole of `params.yaml`."""

    prepare: PrepareParams
    """Stage `prepare`: images and captions into shards."""
    teacher: TeacherParams
    """Stage `teacher`: the frozen CLIP."""
    embed: EmbedParams
    """Stage `embed`: views and their teacher embeddings."""
    distill: DistillParams
    """Stage `distill`: training of the student."""
    train_boxes: TrainBoxesParams
    """Stage `train_boxes`: a box head on the student's trunk."""
    zero_shot: ZeroShotParams
    """Stage `zero_shot`."""
    linear_probe: LinearProbeParams
    """Stage `linear_probe`."""
    retrieval: RetrievalParams
    """Stage `retrieval`."""
    detection: DetectionParams
    """Stage `detection`: objects by the names of their classes."""
    export: ExportParams
    """Stage `export`."""
    efficiency: EfficiencyParams
    """Stage `efficiency`."""
    report: ReportParams
    """Stage `report`."""
    data: DataParams = DataParams()
    """Storage of the shards."""
    cluster: ClusterParams = ClusterParams()
    """Where and how stages run."""
    tracking: TrackingParams = TrackingParams()
    """MLflow."""

    @model_validator(mode="after")
    def _cluster_has_storage(self) -> Params:
        if self.cluster.mode == "cluster" and self.data.storage is None:
            raise section_error(
                "data.storage is null, and machines of a cluster cannot read out/; give a folder "
                "that all of them share, or s3://BUCKET/PREFIX",
            )
        return self

    @model_validator(mode="after")
    def _boxes_have_weights(self) -> Params:
        """Refuses what would otherwise fail after the student was trained."""
        weights, backbone = self.distill.backbone_weights, self.distill.backbone
        if self.train_boxes.kind == "pretrained" and (weights is None or ":" in backbone):
            raise section_error(
                "train_boxes.kind is pretrained, and distill.backbone_weights names no file of a "
                "YOLO; give it and distill.backbone those of one, or set train_boxes.kind to "
                "trained"
            )
        return self

    @model_validator(mode="after")
    def _regions_are_embedded(self) -> Params:
        weight = self.distill.losses.regions
        if weight and not self.embed.regions.count:
            raise section_error(
                f"distill.losses.regions is {weight:g}, and embed.regions.count is 0; embed some "
                "regions, or set the weight to 0"
            )
        return self


def load_params(path: Path | str = "params.yaml") -> Params:
    """Reads and checks params; makes relative paths in them absolute, from the folder of the file.

    Raises:
        ConfigError: The file is missing, or a key or value is wrong; names it, and the nearest
            right key.
    """
    path = Path(path).resolve()
    return check_params(read_yaml(path), path)


def check_params(values: Any, path: Path) -> Params:
    """Params from the values of a file at `path` (see `load_params`)."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {one_line(explain(error, Params, values))}") from error
    return _absolute(params, path.parent)


def _absolute(params: Params, root: Path) -> Params:
    def resolve(path: Path) -> Path:
        return (root / _with_home(path)).resolve()

    distill, names = params.distill, params.zero_shot.class_names
    data = params.prepare.path
    data = resolve(data) if isinstance(data, Path) else _data_address(data)
    storages = {
        section: getattr(params, section).model_copy(
            update={"storage": _address(root, section, getattr(params, section).storage)}
        )
        for section in ("data", "cluster")
    }
    return params.model_copy(
        update={
            **storages,
            "prepare": params.prepare.model_copy(update={"path": data}),
            "teacher": params.teacher.absolute(resolve),
            "distill": distill.model_copy(
                update={"backbone_weights": resolve(distill.backbone_weights)}
            )
            if distill.backbone_weights
            else distill,
            "zero_shot": params.zero_shot.model_copy(
                update={"class_names": resolve(names) if isinstance(names, Path) else names}
            ),
        }
    )


def _data_address(address: str) -> str:
    try:
        return check_address(address)
    except ConfigError as error:
        raise ConfigError(f"params.yaml: prepare.path: {error}; correct it") from error


def _address(root: Path, section: str, storage: str | None) -> str | None:
    """The absolute address of the storage of a section."""
    if storage is None:
        return None
    if "://" not in storage:
        return str((root / _with_home(Path(storage))).resolve())
    try:
        return check_address(storage)
    except ConfigError as error:
        raise ConfigError(f"params.yaml: {section}.storage: {error}; correct it") from error


def _with_home(path: Path) -> Path:
    """A path whose `~` is written out."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"params.yaml: {path}: this machine has no home {path.parts[0]}; write all of it"
        ) from error


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
