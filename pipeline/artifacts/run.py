"""The record of a finished run, `out/student/run.json`; later stages take its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from kdeov.weights.digests import require_sha256
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.checked import (
    checked_json,
    fix_of,
    parse_checked_json,
    read_record,
    write_checked_json,
)
from pipeline.storage.storage import Storage, open_storage

RUN, CONFIG = "run.json", "config.json"
METRICS, CURVE = "distill.json", "history.csv"  # in `metrics/`
HISTORY = "history.json"  # of a run, with the columns of the machine


@dataclass(frozen=True)
class RunRecord:
    """Identity of a trained student.

    Attributes:
        fingerprint: Digest of all that its numbers depend on.
        name: For people: backbone, fusion and four digits of the fingerprint.
        dataset: Name of the data set.
        teacher: Name of the teacher.
        params: The sections of params that went into it.
        ingredients: All that the fingerprint was made of, besides params.
        sha256: Digests of the other files that training wrote, by name: the student's `config.json`
            (which has those of its weights), and its metrics and history, which git keeps.
    """

    fingerprint: str
    name: str
    dataset: str
    teacher: str
    params: dict[str, Any]
    ingredients: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def fusion_is_trained(self) -> bool:
        """Whether the fusion module was trained, so that there is something to re-rank with."""
        distill = self.params["distill"]
        return distill["losses"]["fusion"] > 0 or distill.get("fusion_epochs", 0) > 0

    def write(self, student: Path) -> None:
        """Writes `run.json` beside the student's weights."""
        write_checked_json(student / RUN, asdict(self))

    @classmethod
    def read(cls, student: Path) -> RunRecord:
        """The record of a student.

        Raises:
            DataError: It is missing, damaged or edited, or the record of another student.
        """
        record = read_record(cls, student / RUN, "distill")
        record.require(student / CONFIG, student)
        return record

    def require(self, path: Path, student: Path) -> None:
        """Compares a file that training wrote with the record.

        Args:
            path: The file.
            student: The folder of the record, for errors.

        Raises:
            DataError: It is missing, damaged or edited, or of another run.
        """
        if not path.is_file():
            raise DataError(f"{path}: missing; run `dvc repro distill`")
        if path.name in self.sha256:
            require_sha256(path, self.sha256[path.name], student / RUN, fix_of("distill"))


def runs_storage(params: Params, layout: Layout) -> Storage:
    """Where checkpoints of runs lie, one folder a fingerprint."""
    shared = params.cluster.storage
    if params.cluster.mode == "cluster":
        shared = shared or params.data.storage
    return open_storage(shared) / "runs" if shared else open_storage(str(layout.runs))


def write_history(run: Storage, fingerprint: str, epochs: list[dict[str, float]]) -> None:
    """Writes the history of a run, with the columns of the machine, beside its checkpoints."""
    run.write(HISTORY, checked_json({"fingerprint": fingerprint, "epochs": epochs}))


def read_history(run: Storage, fingerprint: str) -> list[dict[str, float]]:
    """The metrics of each epoch of a run.

    Raises:
        FileNotFoundError: The run's folder is elsewhere.
        DataError: The file is damaged, edited or of another run.
        StorageError: The storage cannot be read.
    """
    where, fix = run.where(HISTORY), fix_of("distill")
    values = parse_checked_json(run.read(HISTORY), where, fix)
    if values["fingerprint"] != fingerprint:
        raise DataError(f"{where}: of the run {values['fingerprint']}, not {fingerprint}; {fix}")
    return values["epochs"]
