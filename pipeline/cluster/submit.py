"""A stage as a job of a cluster: submitted once, followed, and its outputs brought back.

A job is named by what it does, so whoever asks for the same finds it: it is followed where it runs,
its outputs are taken where it has succeeded, and it is tried again where it has not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.errors import KdeovError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import MANIFEST
from pipeline.cluster.client import Dashboard
from pipeline.cluster.driver import EXIT_USER_ERROR
from pipeline.cluster.package import check_package
from pipeline.cluster.records import Record
from pipeline.cluster.upload import upload_finished, upload_missing
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.runtime.job import JOB, STAGES, File, Job
from pipeline.runtime.node import fetch, outputs_of, store
from pipeline.runtime.ray_session import PREEMPTION, set_ray_environment
from pipeline.storage.files import writing, writing_folder
from pipeline.storage.storage import Storage, open_storage

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

logger = logging.getLogger(__name__)

OF_DVC = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")  # MLflow shows them as tags


def runs_on_cluster(stage: str, params: Params) -> bool:
    """Whether a stage goes to a cluster."""
    return params.cluster.mode == "cluster" and stage in STAGES


def run_on_cluster(stage: str, params: Params, layout: Layout) -> None:
    """Runs a stage as a job, and puts its outputs in place.

    Raises:
        KdeovError: The job could not run, or was stopped by someone else.
        KeyboardInterrupt: Ctrl-C, after the job was stopped.
        SystemExit: The stage ended with a line of its own, which its log has shown.
    """
    submission = Submission.of(stage, params, layout)
    if stage == "embed" and not submission.done:
        upload_finished(params, layout)
    failures = 0
    while not submission.done:
        try:
            started = submission.start()
            info = submission.dashboard.follow(submission.id, all_of_it=started)
        except KeyboardInterrupt:
            logger.info("stopping %s", submission.id)
            try:
                submission.dashboard.stop(submission.id)
            except KdeovError as error:
                logger.warning("it could not be stopped and may go on: %s", error)
            raise
        if submission.done:
            break
        why = _why_it_died(submission, info)
        failures += 1
        if failures > params.cluster.max_failures:
            raise KdeovError(
                f"the driver of {submission.id} died {failures} times ({why}); mend the cause, or "
                "raise cluster.max_failures"
            )
        logger.warning(
            "the driver of %s died (%s); starting it again, %d of at most %d times",
            submission.id, why, failures, params.cluster.max_failures,
        )  # fmt: skip
        submission.advance()
    submission.fetch_outputs()


@dataclass
class Submission:
    """The newest attempt at a job.

    Attributes:
        job: What runs.
        files: Where its inputs lie here.
        dashboard: Of the cluster.
        layout: Of the checkout.
        attempt: Counted from 1.
    """

    job: Job
    files: dict[str, Path]
    dashboard: Dashboard
    layout: Layout
    attempt: int

    @classmethod
    def of(cls, stage: str, params: Params, layout: Layout) -> Submission:
        """The newest attempt at a stage on this checkout as it is.

        Raises:
            KdeovError: Something is wrong that can be known before.
        """
        check_package(layout.root)
        job, files = Job.of(stage, params, layout)
        address = params.cluster.address
        assert address is not None  # the schema asks for it
        found = cls(job, files, Dashboard(address), layout, 1)
        while found.folder.size("job.json") is not None:
            found.attempt += 1
        found.attempt = max(1, found.attempt - 1)
        return found

    @property
    def id(self) -> str:
        """Of the attempt."""
        return f"{self.job.name}-{self.attempt}"

    @property
    def folder(self) -> Storage:
        """Of the attempt, in the storage."""
        return open_storage(self.job.storage) / f"jobs/{self.id}"

    @property
    def done(self) -> bool:
        """Whether outputs are there to be taken."""
        return self.folder.size("outputs.json") is not None

    def start(self) -> bool:
        """Submits the attempt, or the next one where it has ended; not what runs already.

        Returns:
            Whether anything was submitted.
        """
        info = self.dashboard.info(self.id)
        if info is not None and not info.status.is_terminal():
            logger.info("%s runs already; following it", self.id)
            self._record()
            return False
        if info is not None:
            self.advance()
        storage = open_storage(self.job.storage)
        for file in self.job.inputs:
            store(storage, file, self.files[file.path])
        for path in self.files.values():
            if path.name == MANIFEST:
                upload_missing(ShardFolder(path.parent, self.job.params["data"]["storage"]))
        self.job.write(self.folder)
        variables = {name: os.environ[name] for name in OF_DVC if name in os.environ}
        self.dashboard.submit(
            self.id,
            f"exec python -m stages.{self.job.stage}",
            self.layout.root,
            # machines of a cluster may be taken away, so there is somebody to look
            {**variables, **set_ray_environment(), PREEMPTION: "1", JOB: self.folder.address},
        )
        self._record()
        logger.info("submitted %s to %s", self.id, self.dashboard.address)
        return True

    def advance(self) -> None:
        """Turns to the next attempt."""
        self.attempt += 1

    def fetch_outputs(self) -> None:
        """Puts the outputs in place, all of them or none.

        Raises:
            KdeovError: One is not in the storage any more.
        """
        files = outputs_of(self.folder) or []
        storage = open_storage(self.job.storage)
        try:
            with contextlib.ExitStack() as stack:
                for output in self.job.outputs:
                    _place(output, files, storage, self.layout.root, stack)
        except KdeovError as error:
            raise KdeovError(
                f"{error}; to run {self.id} again, delete {self.folder.where('outputs.json')}"
            ) from error
        logger.info("outputs of %s are in place", self.id)

    def _record(self) -> None:
        Record(
            self.job.stage, self.id, self.dashboard.address, self.folder.address, time.time()
        ).write(self.layout)


def _place(
    output: str, files: list[File], storage: Storage, root: Path, stack: contextlib.ExitStack
) -> None:
    """Downloads an output, a file or a folder, which gets its name when the stack ends well."""
    inside = [file for file in files if file.path.startswith(f"{output}/")]
    if inside:
        folder = stack.enter_context(writing_folder(root / output))
        for file in inside:
            fetch(storage, file, folder / Path(file.path).relative_to(output))
    for file in files:
        if file.path == output:
            placed = stack.enter_context(writing(root / output))
            with tempfile.TemporaryDirectory() as folder_name:
                fetch(storage, file, partial := Path(folder_name) / "file")
                placed.write(partial.read_bytes())  # of metrics, which are small


def _why_it_died(submission: Submission, info: JobDetails | None) -> str:
    """Of a job that ended without outputs, and may be tried again.

    Raises:
        KdeovError: It should not be tried again by itself.
        SystemExit: Its log has shown why.
    """
    job = submission.id
    if info is None:
        return "the cluster does not know it any more"
    code = info.driver_exit_code
    if info.status == "STOPPED":
        raise KdeovError(
            f"{job} was stopped, not from here; `dvc repro` starts it again and goes on from its "
            "last checkpoint"
        )
    if code == EXIT_USER_ERROR:
        sys.exit(1)
    if code is not None and 0 <= code < 128:
        raise KdeovError(f"{job} failed with status {code}; its log is above, and at "
                         f"{submission.dashboard.address}")  # fmt: skip
    if code is None and info.error_type != "JOB_SUPERVISOR_ACTOR_DIED":
        reason = (info.message or str(info.error_type)).strip().splitlines()[0][:300]
        raise KdeovError(f"{job} could not start: {reason}")
    return f"signal {-code if code < 0 else code - 128}" if code is not None else "its node is gone"
