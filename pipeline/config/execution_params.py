"""The sections of `params.yaml` that say only where things are and run. They stand in no stage's
`params:`, so that moving never invalidates a model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.config.schema import Count, Flag, Section, Text, Whole, section_error


class DataParams(Section):
    """Where shards lie; manifests vouch for them wherever they are."""

    storage: Text | None = None
    """A folder that all machines share, or `s3://BUCKET/PREFIX`; null keeps shards in `out/`."""


class ClusterParams(Section):
    """Where embedding, training and evaluation run."""

    mode: Literal["inline", "local", "cluster"] = "local"
    """`inline` runs in this process, `local` in Ray on this machine, `cluster` as jobs of a Ray
    cluster."""
    address: Text | None = None
    """Of a Ray cluster's dashboard, which takes jobs: `http://HOST:8265`."""
    storage: Text | None = None
    """Where checkpoints and jobs lie, like `data.storage`, which stands in where it is null; in
    other modes than `cluster`, null is `work/`."""
    num_workers: Count | tuple[Count, Count] = 2
    """How many train, or `[min, max]`: then training goes on with as many as there are."""
    use_gpu: Flag | Literal["auto"] = "auto"
    """Whether workers use GPUs; auto uses them where there are some."""
    dataloader_workers: Whole = 0
    """Processes that read data, a worker."""
    max_failures: Whole = 3
    """How often training, or an embedding worker, is started again after a death."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; each epoch ends with one too."""
    embed_batch: Count | Literal["auto"] = "auto"
    """Views that the teacher embeds at once; auto sizes it to the device."""
    compile: Flag = False
    """Whether torch.compile makes the student faster, after some minutes at the start."""

    @property
    def max_workers(self) -> int:
        """At most as many train."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def min_workers(self) -> int:
        """With fewer, training waits."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @model_validator(mode="after")
    def _fits_together(self) -> ClusterParams:
        if self.min_workers > self.max_workers:
            raise section_error(
                f"num_workers: [{self.min_workers}, {self.max_workers}] goes down; write [min, max]"
            )
        if self.mode == "cluster" and self.address is None:
            raise section_error(
                "address is null; give the cluster's dashboard, http://HOST:8265 "
                "(`kdeov cluster up` prints it)",
            )
        return self


class TrackingParams(Section):
    """Where MLflow records; `MLFLOW_TRACKING_URI` wins over `uri`."""

    uri: Text | None = None
    """MLflow's tracking address; null is a database under `work/`."""
    experiment: Text = "kdeov"
    """Name of the MLflow experiment."""
