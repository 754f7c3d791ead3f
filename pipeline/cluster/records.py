"""Which jobs a checkout has submitted: one file a job in `work/jobs/`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.config.paths import Layout
from pipeline.storage.files import read_json, write_json


@dataclass(frozen=True)
class Record:
    """A job of this checkout.

    Attributes:
        stage: What it runs.
        id: On the cluster.
        address: Of the cluster.
        folder: Of the job, in the storage.
        since: Seconds since 1970 when it was submitted, or found running.
    """

    stage: str
    id: str
    address: str
    folder: str
    since: float

    def write(self, layout: Layout) -> None:
        """Keeps the first time at which the job was known."""
        path = layout.jobs / f"{self.id}.json"
        if not path.is_file():
            write_json(path, asdict(self))

    @classmethod
    def all(cls, layout: Layout) -> list[Record]:
        """The oldest first."""
        found = [cls(**read_json(path)) for path in layout.jobs.glob("kdeov-*.json")]
        return sorted(found, key=lambda record: record.since)
