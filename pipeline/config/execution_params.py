"""The sections of `params.yaml` that say where data lies and where stages run.

No stage of `dvc.yaml` lists them, so that moving to another machine never invalidates a model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.schema import Count, Flag, PlainName, Section, Text, Whole, section_error


class DataParams(Section):
    """Storage of the shards, which readers compare with their manifests."""

    storage: Text | None = None
    """Folder that all machines share, or `s3://BUCKET/PREFIX`; null keeps shards in `out/`."""


class ClusterParams(Section):
    """Where preparing, embedding, training and evaluation run."""

    mode: Literal["inline", "local", "cluster"] = "local"
    """`inline` runs in this process, `local` in Ray on this machine, `cluster` as jobs of a Ray
    cluster."""
    address: Text | None = None
    """Address of a Ray cluster's dashboard, which takes jobs: `http://HOST:8265`."""
    storage: Text | None = None
    """Storage of checkpoints and jobs. Null is `data.storage` in mode `cluster`, and `work/` in the
    other modes."""
    num_workers: Count | tuple[Count, Count] = 2
    """Number of training workers, one CPU thread or one GPU each; or `[min, max]`: training goes on
    with as many as there are."""
    use_gpu: Flag | Literal["auto"] = "auto"
    """Whether workers use GPUs; auto uses them where there are any."""
    dataloader_workers: Whole = 0
    """Processes of each worker that read data; with 0, the worker reads them itself."""
    max_failures: Whole = 3
    """How often training, or the workers that prepare or embed, are restarted after a death."""
    node_wait_s: Whole = 1800
    """Seconds that a job of a cluster waits for machines for the smaller number of workers, as one
    that scales from zero starts them; then the job fails."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; each epoch ends with one too."""
    embed_batch: Count | Literal["auto"] = "auto"
    """Views that the teacher embeds at once; auto sizes it to the device."""
    compile: Flag = False
    """Whether torch.compile compiles the student, which takes minutes and makes steps faster;
    `kdeov bench gpu` says how much."""

    @property
    def max_workers(self) -> int:
        """Largest number of training workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def most_processes(self) -> int:
        """Largest number of processes that train; inline, this one alone."""
        return 1 if self.mode == "inline" else self.max_workers

    @property
    def min_workers(self) -> int:
        """Smallest number of training workers; with fewer, training waits."""
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
        if "@" in (self.address or ""):
            raise section_error(
                "address holds a login, which git and logs would keep; give http://HOST:8265, and "
                "put the cluster's token into ~/.ray/auth_token"
            )
        return self


class TrackingParams(Section):
    """MLflow; the variable `MLFLOW_TRACKING_URI` overrides `uri`."""

    uri: Text | None = None
    """Tracking URI of MLflow; null is a database below `work/`."""
    experiment: Annotated[Text, Field(max_length=500)] = "kdeov"
    """Name of the MLflow experiment, of at most 500 characters, which is MLflow's limit."""
    model: PlainName | None = None
    """Name of the student in MLflow's registry, where `kdeov publish` adds versions; each recipe
    gives its own, and null takes `prepare.dataset`."""
    system_metrics: Flag = True
    """Whether MLflow shows the load of the machine that drives training: processors, memory, disks,
    network and GPUs, every 10 seconds."""
