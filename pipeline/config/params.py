"""The schema of `params.yaml`: one section a stage, and those of where things are and run.

The sections of stages have no defaults: every value that a number depends on stands in the file,
where DVC sees it. Of the sections of sources, only the one that is used must stand there.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kdeov.errors import KdeovError
from pipeline.config.batch_sharing import sharing_problem
from pipeline.config.execution_params import ClusterParams, DataParams, TrackingParams
from pipeline.config.renamed import RENAMED
from pipeline.config.schema import Count, NonNegative, Section, Seed, Share
from pipeline.config.source_params import SOURCES, SourceSections
from pipeline.config.teacher_params import TeacherParams
from pipeline.storage.storage import check_address


class PrepareParams(SourceSections):
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """What metrics and reports call the data."""
    source: str
    path: Path
    """What the source reads; DVC watches it."""
    seed: Seed
    samples_per_shard: Count
    max_image_side: Count | None
    """Images whose longer side exceeds it are reduced; others keep their bytes where they can."""
    max_rejected: Share
    """Share of unusable inputs above which the stage fails."""

    @model_validator(mode="after")
    def _source_is_there(self) -> PrepareParams:
        if self.source not in SOURCES:
            raise PydanticCustomError(
                "source",
                "source: choose from {sources}, not {source}",
                {"sources": ", ".join(SOURCES), "source": repr(self.source)},
            )
        if getattr(self, self.source) is None:
            raise PydanticCustomError(
                "source",
                "{source} is missing; add to this section `{source}: {example}`",
                {"source": self.source, "example": SOURCES[self.source].example},
            )
        return self


class EmbedParams(Section):
    seed: Seed
    views: Count
    """Views of each training image; validation and test images have the plain one."""
    crop_scale_min: Annotated[float, Field(gt=0, le=1)]
    color_jitter: Annotated[float, Field(ge=0, lt=1)]
    blur_prob: Share
    precision: Literal["float32", "bfloat16", "float16"]
    """What the teacher computes in; vectors are stored as float16 in any case."""


class LossParams(Section):
    """Weights of the loss terms; a term of weight 0 is not computed."""

    feature: NonNegative
    affinity: NonNegative
    relation: NonNegative
    contrastive: NonNegative
    interactive: NonNegative
    fusion: NonNegative
    """Trains the fusion module alone; the index embedding does not depend on it."""


def _known_backbone(name: str) -> str:
    """What can be told of a name without building the network."""
    if not re.fullmatch(r"yolo(v5|v8|11)[nsmlx]|timm:.+", name):
        raise ValueError(
            "choose yolov5, yolov8 or yolo11 with a size n, s, m, l or x (yolov8n), or timm:NAME"
        )
    return name


class DistillParams(Section):
    seed: Seed
    backbone: Annotated[str, AfterValidator(_known_backbone)]
    """`yolov5`, `yolov8` or `yolo11` with a size n, s, m, l or x; or `timm:` and a name of timm."""
    fusion: Literal["film", "cross_attention"]
    backbone_weights: Path | None
    image_size: Annotated[int, Field(ge=32)]
    epochs: Count
    global_batch_size: Count
    """Images a step, over all workers."""
    micro_batch_size: Count
    """Images a forward pass; a worker's share of a step is a multiple of it. Batch norm sees one
    micro-batch at a time, so that numbers do not depend on how many workers there are."""
    num_streams: Count
    """Places of the data that a step mixes, each read in sequence; workers share them evenly."""
    shuffle_buffer: Count
    """Images, over all workers, that are in memory and shuffled together."""
    learning_rate: Annotated[float, Field(gt=0)]
    backbone_learning_rate: NonNegative | None
    """Of the backbone alone; 0 leaves it as it is, null trains it like the rest."""
    freeze_batch_norm: bool
    """Whether the backbone's batch norms keep their statistics, which pretrained weights bring."""
    ridge_init: Annotated[float, Field(gt=0)] | None
    """Strength of the ridge regression that fits the last linear map before training; null starts
    from random weights. See `kdeov.training.ridge_init`."""
    weight_decay: NonNegative
    warmup_fraction: Share
    """Share of all steps."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the weight average that is evaluated and saved; 0 keeps the plain weights."""
    feature_loss: Literal["cosine", "l2"]
    losses: LossParams

    @model_validator(mode="after")
    def _fits_together(self) -> DistillParams:
        """What would otherwise be told after hours of embedding."""
        if problem := sharing_problem(
            self.global_batch_size, self.num_streams, self.micro_batch_size
        ):
            raise PydanticCustomError("part", "{problem}", {"problem": problem})
        if self.backbone_weights is None and (
            self.freeze_batch_norm or self.backbone_learning_rate == 0
        ):
            raise PydanticCustomError(
                "part", "backbone_weights: null are random weights, which are not worth freezing"
            )
        return self


class ZeroShotParams(Section):
    templates: str
    """Set of `kdeov.prompts`."""
    class_names: dict[str, str | None] | Path | None
    """What prompts call classes, null leaving one out: a mapping, or a JSON file with one. DVC
    watches a mapping; of a file, results state the digest, which whoever shows them compares."""
    bootstrap_samples: Count
    """Of the bootstrap that gives the 95% intervals."""


class LinearProbeParams(Section):
    C_grid: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Values of C among which the validation split chooses."""
    bootstrap_samples: Count


class RetrievalParams(Section):
    rerank: Annotated[int, Field(ge=0)]
    """First hits that fusion re-orders, as a row of its own; 0 leaves the row out."""
    bootstrap_samples: Count


class EfficiencyParams(Section):
    threads: Count
    batch_size: Count
    repeats: Count
    reference_size: Annotated[int, Field(ge=32, multiple_of=32)]
    """Side at which the student is timed against the reference, CLIP's ViT-B/32."""


class ReportParams(Section):
    examples: Count


class Params(Section):
    """All of `params.yaml`."""

    prepare: PrepareParams
    teacher: TeacherParams
    embed: EmbedParams
    distill: DistillParams
    zero_shot: ZeroShotParams
    linear_probe: LinearProbeParams
    retrieval: RetrievalParams
    efficiency: EfficiencyParams
    report: ReportParams
    data: DataParams = DataParams()
    cluster: ClusterParams = ClusterParams()
    tracking: TrackingParams = TrackingParams()

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
