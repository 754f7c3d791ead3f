"""The schema of `params.yaml`: one section a stage, and those of where things are and run.

The sections of stages have no defaults: every value that a number depends on stands in the file,
where DVC sees it. Of the sections of sources, only the one that is used must stand there.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kdeov.errors import KdeovError
from pipeline.config.execution_params import ClusterParams, DataParams, TrackingParams
from pipeline.config.renamed import RENAMED
from pipeline.config.schema import Section
from pipeline.config.stage_params import (
    DistillParams,
    EfficiencyParams,
    EmbedParams,
    LinearProbeParams,
    PrepareParams,
    ReportParams,
    RetrievalParams,
    ZeroShotParams,
)
from pipeline.config.teacher_params import TeacherParams
from pipeline.storage.storage import check_address


class Params(Section):
    """All of `params.yaml`."""

    prepare: PrepareParams
    """Stage `prepare`: images and captions into shards."""
    teacher: TeacherParams
    """Stage `teacher`: the frozen CLIP."""
    embed: EmbedParams
    """Stage `embed`: views and their teacher embeddings."""
    distill: DistillParams
    """Stage `distill`: training of the student."""
    zero_shot: ZeroShotParams
    """Stage `zero_shot`."""
    linear_probe: LinearProbeParams
    """Stage `linear_probe`."""
    retrieval: RetrievalParams
    """Stage `retrieval`."""
    efficiency: EfficiencyParams
    """Stage `efficiency`."""
    report: ReportParams
    """Stage `report`."""
    data: DataParams = DataParams()
    """Where shards lie."""
    cluster: ClusterParams = ClusterParams()
    """Where and how stages run."""
    tracking: TrackingParams = TrackingParams()
    """Where MLflow is."""

    @model_validator(mode="after")
    def _cluster_has_storage(self) -> Params:
        if self.cluster.mode == "cluster" and self.data.storage is None:
            raise PydanticCustomError(
                "part",
                "data.storage is null, and machines of a cluster cannot read out/; give a folder "
                "that all of them share, or s3://BUCKET/PREFIX",
            )
        return self


def load_params(path: Path | str = "params.yaml") -> Params:
    """Reads and checks params; relative paths in it become absolute, from the folder of the file.

    Raises:
        KdeovError: The file is missing, or a key or value is wrong; names it, and the nearest right
            key.
    """
    path = Path(path).resolve()
    try:
        values = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise KdeovError(f"{path}: {error.strerror}; run in the folder of params.yaml") from error
    except yaml.YAMLError as error:
        raise KdeovError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return check_params(values, path)


def check_params(values: Any, path: Path) -> Params:
    """Params from what a file at `path` holds (see `load_params`)."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise KdeovError(f"{path.name}: {_explain(error)}") from error
    return _absolute(params, path.parent)


def _explain(error: ValidationError) -> str:
    """The first fault in one line."""
    # a mistyped key is also missing under its right name: the typing error says more
    fault = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in fault["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        *section, key = (str(part) for part in fault["loc"])
        known = list(_section(section).model_fields)
        if (new := RENAMED.get(where)) is not None:
            return f"{where} is now {'.'.join([*section, new])}; rename it{more}"
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
        return f"{where} is not a key{' of ' + '.'.join(section) if section else ''}; {hint}{more}"
    if fault["type"] == "missing":
        return f"{where} is missing; every key of a stage must be given{more}"
    if fault["type"] in ("source", "part"):
        return f"{where}{'.' if where else ''}{fault['msg']}{more}"
    text = fault["msg"].removeprefix("Value error, ")
    message = text[0].lower() + text[1:]
    return f"{where or 'the file'}: {message}, not {fault['input']!r}{more}"


def _section(names: list[str]) -> type[BaseModel]:
    model: Any = Params
    for name in names:
        annotation = model.model_fields[name].annotation
        model = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return model


def _absolute(params: Params, root: Path) -> Params:
    def resolve(path: Path) -> Path:
        return (root / path.expanduser()).resolve()

    distill, names = params.distill, params.zero_shot.class_names
    try:
        teacher = params.teacher.absolute(resolve)
    except ValueError as error:
        raise KdeovError(f"params.yaml: {error}") from error
    storages = {
        section: getattr(params, section).model_copy(
            update={"storage": _address(root, getattr(params, section).storage)}
        )
        for section in ("data", "cluster")
    }
    return params.model_copy(
        update={
            **storages,
            "prepare": params.prepare.model_copy(update={"path": resolve(params.prepare.path)}),
            "teacher": teacher,
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


def _address(root: Path, storage: str | None) -> str | None:
    """Where a storage is, seen from anywhere."""
    if storage is None or "://" in storage:
        return None if storage is None else check_address(storage)
    return str((root / Path(storage).expanduser()).resolve())


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
