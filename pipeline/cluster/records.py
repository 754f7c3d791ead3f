"""The jobs that a checkout has submitted: one file a job in `work/jobs/`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.config.paths import Layout
from pipeline.storage.checked import read_record, write_checked_json


@dataclass(frozen=True)
class Record:
    """A job of this checkout.

    Attributes:
        stage: Stage that it runs.
        id: Id on the cluster.
        address: Address of the cluster's dashboard.
        folder: Address of the job's folder in the storage.
        since: Seconds since 1970 when it was submitted, or found running.
    """

    stage: str
    id: str
    address: str
    folder: str
    since: float

    def write(self, layout: Layout) -> None:
        """Writes the record; an older one of the same job stays."""
        path = layout.jobs / f"{self.id}.json"
        if not path.is_file():
            write_checked_json(path, asdict(self))

    @classmethod
    def all(cls, layout: Layout) -> list[Record]:
        """Reads all records, the oldest first."""
        found = [read_record(cls, path) for path in layout.jobs.glob("kdeov-*.json")]
        return sorted(found, key=lambda record: record.since)
