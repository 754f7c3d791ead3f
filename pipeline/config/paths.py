"""Paths of a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COPIES = (".dvc/tmp/exps", "work/ablations")
"""Folders of a checkout in which commands run copies of it, and delete them afterwards."""


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
    def home(self) -> Path:
        """The checkout that keeps what is to outlive a run: the root or, for a copy that
        `dvc exp run --temp`, `--queue` or `kdeov ablation` made, the checkout that it was made in.
        """
        for folder in self.root.parents:
            inside = any(self.root.is_relative_to(folder / place) for place in COPIES)
            if inside and (folder / "dvc.yaml").is_file():
                return Layout(folder).home
        return self.root

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
    def boxes(self) -> Path:
        return self.root / "out" / "boxes"

    @property
    def export(self) -> Path:
        return self.root / "out" / "export"

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
    def rejected(self) -> Path:
        """Inputs that the last run of `prepare` rejected, where it failed."""
        return self.root / "work" / "rejected.json"

    @property
    def listings(self) -> Path:
        """What `prepare` keeps of the listing of a bucket, where there is no storage for it."""
        return self.root / "work" / "listings"

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
        return self.home / "work" / "mlflow" / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        """Files of runs in MLflow, where a database rather than a server keeps them."""
        return self.home / "work" / "mlflow" / "artifacts"

    @property
    def tracking_lock(self) -> Path:
        """Held by the process that publishes."""
        return self.home / "work" / "mlflow" / ".publish.lock"

    def published(self, fingerprint: str) -> Path:
        """Which MLflow run shows a fingerprint."""
        return self.home / "work" / "runs" / fingerprint / "mlflow.json"
