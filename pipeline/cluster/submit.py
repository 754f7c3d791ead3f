"""Runs a stage as a job of a Ray cluster: submits it, follows its log, fetches its outputs.

A job is named by a digest of what it does, so a second submission finds the first: it follows a job
that runs, fetches the outputs of one that has succeeded, and tries one again that failed or was
lost with the cluster's head.
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

from kdeov.errors import ConfigError, KdeovError, StorageError
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.cluster.attempt import LOSS_LIMIT_S, LOSS_POLL_S, Attempt
from pipeline.cluster.client import (
    RECONNECT_LIMIT_S,
    RETRY_INTERVAL_S,
    Dashboard,
    Unreachable,
)
from pipeline.cluster.driver import EXIT_USER_ERROR
from pipeline.cluster.package import check_package
from pipeline.cluster.records import Record
from pipeline.cluster.upload import upload_finished, upload_missing
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.runtime.job import STAGES, File, Job
from pipeline.runtime.node import fetch, outputs_of, store
from pipeline.storage.files import writing, writing_folder
from pipeline.storage.storage import Storage, open_storage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

logger = logging.getLogger(__name__)

DVC_VARIABLES = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")  # tags of the MLflow run


def runs_on_cluster(stage: str, params: Params) -> bool:
    """Whether a stage runs as a job."""
    return params.cluster.mode == "cluster" and stage in STAGES


def run_on_cluster(stage: str, params: Params, layout: Layout) -> None:
    """Runs a stage as a job, and puts its outputs in place.

    Raises:
        StorageError: The cluster could not run the job, or somebody stopped it.
        DataError: An output is not in the storage, or damaged.
        KeyboardInterrupt: Ctrl-C, after the job was stopped.
        SystemExit: The stage raised a `KdeovError`, which its log has shown.
    """
    submission = Submission.of(stage, params, layout)
    if stage == "prepare" and submission.done:
        # its data may have changed since, and another attempt finds the shards that are finished
        submission.advance()
    if stage == "embed" and not submission.done:
        upload_finished(params, layout)
    failures = 0
    while not submission.done:
        try:
            started = submission.start(RECONNECT_LIMIT_S if failures else 0.0)
            info = submission.dashboard.follow(submission.id, from_start=started)
        except KeyboardInterrupt:
            logger.info("stopping %s", submission.id)
            try:
                submission.dashboard.stop(submission.id)
            except KdeovError as error:
                logger.warning("the job could not be stopped and may go on: %s", error)
            with contextlib.suppress(KdeovError):
                submission.stored.mark_stopped()
            raise
        if submission.done:
            break
        why = _cause_of_death(submission, info)
        failures += 1
        if failures > params.cluster.max_failures:
            raise StorageError(
                f"the driver of {submission.id} died {failures} times ({why}); fix the cause, or "
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
        job: The job.
        files: Local path of each input.
        dashboard: Dashboard of the cluster.
        layout: Paths of the checkout.
        attempt: Number of the attempt, from 1.
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
            KdeovError: The package is too large, an input is missing, or the cluster does not
                answer.
        """
        check_package(layout.root)
        job, files = Job.of(stage, params, layout)
        address = params.cluster.address
        assert address is not None  # the schema asks for it
        found = cls(job, files, Dashboard(address), layout, 1)
        found.attempt = found.stored.newest.number
        return found

    @property
    def id(self) -> str:
        """Id of the attempt on the cluster."""
        return f"{self.job.name}-{self.attempt}"

    @property
    def stored(self) -> Attempt:
        """The attempt in the storage."""
        return Attempt(open_storage(self.job.storage), self.id)

    @property
    def folder(self) -> Storage:
        """Folder of the attempt in the storage."""
        return self.stored.folder

    @property
    def done(self) -> bool:
        """Whether its outputs are in the storage."""
        return self.stored.done

    def start(self, patience_s: float = 0.0) -> bool:
        """Submits the attempt, or the next one if it has ended; a job that runs stays.

        Args:
            patience_s: For how long a dashboard that does not answer is asked again: a head that
                has just come back takes no jobs yet.

        Returns:
            Whether a job was submitted.
        """
        end = time.monotonic() + patience_s
        while True:
            try:
                return self._start()
            except Unreachable as error:
                if time.monotonic() > end:
                    raise
                logger.warning("%s; retrying", error)
                time.sleep(RETRY_INTERVAL_S)

    def _start(self) -> bool:
        info = self.dashboard.info(self.id)
        if info is None and self.folder.size("job.json") is not None:
            info = self._find_or_give_up()
            if self.done:
                return False
            if info is None:
                logger.info("%s was lost with the head of its cluster", self.id)
                self.advance()
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
        variables = {name: os.environ[name] for name in DVC_VARIABLES if name in os.environ}
        self.stored.submit(self.job, self.layout.root, self.dashboard, variables)
        self._record()
        logger.info("submitted %s to %s", self.id, self.dashboard.address)
        return True

    def _find_or_give_up(self) -> JobDetails | None:
        """Looks for an attempt that was submitted and that this cluster does not know.

        Returns:
            Its state, where the cluster comes to know it; None once it is surely lost, or done.

        Raises:
            ConfigError: It runs on another cluster.
        """
        end = time.monotonic() + LOSS_LIMIT_S
        while not (self.done or self.stored.is_gone):
            if info := self.dashboard.info(self.id):
                return info
            if time.monotonic() > end:
                submitted = self.stored.submitted
                where = submitted.address if submitted else "another address"
                raise ConfigError(
                    f"{self.id} runs on another cluster than {self.dashboard.address}, to which it "
                    f"was submitted as {where}; set cluster.address to that one, or stop it there"
                )
            logger.info(
                "%s does not know %s, which showed life less than a minute ago; waiting",
                self.dashboard.address, self.id,
            )  # fmt: skip
            time.sleep(LOSS_POLL_S)
        return None

    def advance(self) -> None:
        """Goes to the next attempt."""
        self.attempt += 1

    def fetch_outputs(self) -> None:
        """Puts the outputs in place, all of them or none.

        Raises:
            DataError: An output is no longer in the storage, or damaged.
        """
        files = outputs_of(self.folder) or []
        storage = open_storage(self.job.storage)
        try:
            with contextlib.ExitStack() as stack:
                for output in self.job.outputs:
                    _place(output, files, storage, self.layout.root, stack)
        except KdeovError as error:
            raise type(error)(
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
    """Downloads an output, a file or a folder, to a temporary name until the stack ends well."""
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
                placed.write(partial.read_bytes())  # metrics are small


def _cause_of_death(submission: Submission, info: JobDetails | None) -> str:
    """The cause, where a job ended without outputs and may be tried again.

    Raises:
        StorageError: Another attempt would fail too, or is not wanted.
        SystemExit: The stage raised a `KdeovError`, which the log has shown.
    """
    job = submission.id
    if info is None:
        return "the cluster has lost it with its head"
    code = info.driver_exit_code
    if info.status == "STOPPED":
        raise StorageError(
            f"{job} was stopped elsewhere; `dvc repro` starts it again and goes on from its "
            "last checkpoint"
        )
    if code == EXIT_USER_ERROR:
        sys.exit(1)
    if code is not None and 0 <= code < 128:
        raise StorageError(f"{job} failed with status {code}; its log is above, and at "
                         f"{submission.dashboard.address}")  # fmt: skip
    if code is None and info.error_type != "JOB_SUPERVISOR_ACTOR_DIED":
        reason = (info.message or str(info.error_type)).strip().splitlines()[0][:300]
        raise StorageError(f"{job} could not start ({reason}); fix it, then run the stage again")
    return f"signal {-code if code < 0 else code - 128}" if code is not None else "its node is gone"
