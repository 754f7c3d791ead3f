"""Paths of a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Absolute paths of a checkout: DVC owns `out/`, git owns `metrics/`, `work/` is scratch.

    Attributes:
        root: Folder that holds `dvc.yaml`.
    """

    root: Path

    @classmethod
    def here(cls) -> Layout:
        """The checkout in the current folder."""
        return cls(Path.cwd())

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def images(self) -> Path:
        return self.root / "out" / "images"

    @property
    def teacher(self) -> Path:
        return self.root / "out" / "teacher"

    @property
    def embeddings(self) -> Path:
        return self.root / "out" / "embeddings"

    @property
    def student(self) -> Path:
        return self.root / "out" / "student"

    @property
    def evaluation(self) -> Path:
        return self.root / "out" / "evaluation"

    @property
    def report(self) -> Path:
        return self.root / "out" / "report" / "index.html"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def runs(self) -> Path:
        """Checkpoints and logs of training: a folder for each fingerprint."""
        return self.root / "work" / "runs"

    @property
    def jobs(self) -> Path:
        """Records of the jobs that were submitted to clusters, a file each."""
        return self.root / "work" / "jobs"

    @property
    def local_cluster(self) -> Path:
        """State of the cluster that `kdeov cluster up` starts."""
        return self.root / "work" / "cluster"

    @property
    def zero_shot_weights(self) -> Path:
        """Cache of zero-shot classifier weights."""
        return self.root / "work" / "zero_shot_weights"

    @property
    def tracking_database(self) -> Path:
        return self.root / "work" / "mlflow" / "mlflow.db"
