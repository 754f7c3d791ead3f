"""The record of a finished run, `out/student/run.json`; later stages take its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.files import read_json, write_json
from pipeline.storage.storage import Storage, open_storage

RUN = "run.json"
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
    """

    fingerprint: str
    name: str
    dataset: str
    teacher: str
    params: dict[str, Any]
    ingredients: dict[str, Any]

    @property
    def fusion_is_trained(self) -> bool:
        """Whether a loss trained the fusion module, so that there is something to re-rank with."""
        return self.params["distill"]["losses"]["fusion"] > 0

    def write(self, student: Path) -> None:
        """Writes `run.json` beside the student's weights."""
        write_json(student / RUN, asdict(self))

    @classmethod
    def read(cls, student: Path) -> RunRecord:
        """The record of a student.

        Raises:
            DataError: It is missing or damaged.
        """
        return cls(**read_json(student / RUN, "distill"))


def runs_storage(params: Params, layout: Layout) -> Storage:
    """Where checkpoints of runs lie, one folder a fingerprint."""
    shared = params.cluster.storage
    if params.cluster.mode == "cluster":
        shared = shared or params.data.storage
    return open_storage(shared) / "runs" if shared else open_storage(str(layout.runs))
