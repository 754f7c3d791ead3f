"""A job: a stage with its params, the digests of its inputs, and the names of its outputs.

The storage holds the job as `jobs/ID/job.json`, and its small files as `blobs/SHA256`. A job holds
no credentials: these stay in the environment of each machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdeov.errors import ConfigError, DataError, StorageError
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import PACKAGES, code_files, is_code, stage_of_dvc
from pipeline.config.reading.yaml_file import read_yaml
from pipeline.storage.checked import checked_json, parse_checked_json
from pipeline.storage.files import TEMPORARY, digest, sha256_file
from pipeline.storage.storage import Storage

JOB = "KDEOV_JOB"
"""Environment variable of every process of a job: the address of its folder in the storage."""
STAGES = (
    "prepare", "embed", "distill", "train_boxes", "zero_shot", "linear_probe", "retrieval",
    "detection",
)  # fmt: skip
"""Stages that run on a cluster; the others are small, and always run on the machine of DVC."""
SHARD_SUFFIXES = (".tar", ".idx")  # of shards and their indexes, which travel by themselves
DIGEST_CHARS = 16  # length of the digest in a job's name


@dataclass(frozen=True)
class File:
    """A file of a job.

    Attributes:
        path: Path in the checkout.
        sha256: Digest of the bytes.
    """

    path: str
    sha256: str

    @property
    def blob(self) -> str:
        """The file's name in the storage."""
        return f"blobs/{self.sha256}"


@dataclass(frozen=True)
class Job:
    """A stage with all that another machine needs to run it.

    Attributes:
        stage: Name of the stage in `dvc.yaml`.
        params: Content of `params.yaml`, with paths that hold on other machines.
        sections: Sections of `params` that the stage depends on.
        code: Code files that `dvc.yaml` lists for the stage.
        inputs: Small files; shards are read from `data.storage`.
        outputs: Files and folders that the stage writes.
        storage: Address of the storage that holds the job.
    """

    stage: str
    params: dict[str, Any]
    sections: list[str]
    code: list[File]
    inputs: list[File]
    outputs: list[str]
    storage: str

    @property
    def name(self) -> str:
        """A name with a digest of the work: equal for equal work, wherever it runs."""
        counted = {**asdict(self), "params": {s: self.params[s] for s in self.sections}}
        counted["shards"] = self.params["data"]["storage"]
        return f"kdeov-{self.stage.replace('_', '-')}-{digest(counted)[:DIGEST_CHARS]}"

    def write(self, folder: Storage) -> None:
        """Writes `job.json` into a job's folder."""
        folder.write("job.json", checked_json(asdict(self)))

    @classmethod
    def read(cls, folder: Storage) -> Job:
        """Reads the job of a folder.

        Raises:
            StorageError: The folder holds no job, or cannot be read.
            DataError: The job is damaged, or of another version.
        """
        where, fix = folder.where("job.json"), "submit the job again"
        try:
            data = folder.read("job.json")
        except FileNotFoundError as error:
            raise StorageError(
                f"{where}: missing; give data.storage an address that all machines share"
            ) from error
        values = parse_checked_json(data, where, fix)
        try:
            files = {key: [File(**file) for file in values[key]] for key in ("code", "inputs")}
            return cls(**{**values, **files})
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: of another version ({error}); {fix}") from error

    @classmethod
    def of(cls, stage: str, params: Params, layout: Layout) -> tuple[Job, dict[str, Path]]:
        """Describes a stage of this checkout as a job.

        Returns:
            The job, and the local path of each input.

        Raises:
            DataError: An input is missing.
            ConfigError: A file that params name is missing.
        """
        described = stage_of_dvc(layout.root, stage)
        code: list[File] = []
        inputs: list[File] = []
        places: dict[str, Path] = {}
        for path in sorted(_files(described.get("deps", []), layout.root, stage)):
            name = str(path.relative_to(layout.root))
            is_input = name.startswith(("out/", "metrics/"))
            (inputs if is_input else code).append(File(name, sha256_file(path)))
            if is_input:
                places[name] = path
        values, outside = _portable(stage, params, layout)
        for name, path in outside.items():
            inputs.append(File(name, sha256_file(path)))
            places[name] = path
        outputs = [_path(entry) for kind in ("outs", "metrics", "plots")
                   for entry in described.get(kind, [])]  # fmt: skip
        storage = params.cluster.storage or params.data.storage
        assert storage is not None  # the schema requires it
        sections = [str(section) for section in described.get("params", [])]
        return cls(stage, values, sections, code, inputs, outputs, storage), places


def files_below(path: Path) -> Iterator[Path]:
    """A file, or the files of a folder, without shards, their indexes and half-written files."""
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix not in SHARD_SUFFIXES and TEMPORARY not in str(file):
            yield file


def _files(deps: list[Any], root: Path, stage: str) -> Iterator[Path]:
    for dep in map(_path, deps):
        if dep.startswith("${"):  # `prepare.path`, which all machines share
            continue
        if not (root / dep).exists():
            raise DataError(f"{root / dep}: missing; run `dvc repro {stage}`")
        yield from code_files(root / dep) if is_code(dep) else files_below(root / dep)


def _path(entry: Any) -> str:
    """The path of an entry of `dvc.yaml`, which is a path, or a path with settings."""
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)


def _portable(stage: str, params: Params, layout: Layout) -> tuple[dict[str, Any], dict[str, Path]]:
    """Params for other machines, and the local path of each file outside of `out/` that the
    stage's own section names: these files travel with the job.
    """
    values = read_yaml(layout.params)
    for section in ("data", "cluster", "tracking"):
        values[section] = getattr(params, section).model_dump(mode="json")
    values["tracking"]["uri"] = _public_uri(params.tracking.uri)
    for part in ("clip", "open_clip"):  # of a weight file, the name is kept without its folder
        options = getattr(params.teacher, part)
        for key, value in values["teacher"].get(part, {}).items() if options else ():
            if isinstance(value, str) and Path(found := getattr(options, key)).is_absolute():
                values["teacher"][part][key] = Path(found).name
    outside = {}
    for key, value in getattr(params, stage, ()):
        if (stage, key) == ("prepare", "path") and Path(value).suffix != ".address":
            values[stage][key] = _data_of_job(value, layout.root)
        elif isinstance(value, Path):  # a small file, such as that of an address
            name = f"inputs/{key}/{value.name}"
            values[stage][key], outside[name] = name, value
    for name, path in outside.items():
        if not path.is_file():
            key = f"{stage}.{name.split('/')[1]}"
            raise ConfigError(f"{path}: missing; fix {key} in params.yaml")
    return values, outside


def _data_of_job(path: Path | str, root: Path) -> str:
    """`prepare.path` on other machines: the same, or what travels with the code of the checkout."""
    for package in PACKAGES:
        code = (root / package).resolve()
        if isinstance(path, Path) and path.is_relative_to(code):
            return str(package / path.relative_to(code))
    return str(path)


def _public_uri(uri: str | None) -> str | None:
    """The address of an MLflow server; None for one that holds a login, and for a database, which
    other machines do not reach.
    """
    if uri is None or not uri.startswith("http"):
        return None
    parts = urlsplit(uri)
    return None if parts.username or parts.password or parts.query else uri
