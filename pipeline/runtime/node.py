"""A job on a machine of the cluster: downloads small inputs into a folder that has the same path on
all nodes, and uploads outputs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from kdeov.errors import DataError, StorageError
from kdeov.weights.digests import digest
from pipeline.runtime.job import JOB, File, Job, files_below
from pipeline.storage.checked import checked_json, parse_checked_json
from pipeline.storage.files import flock, sha256_file, writing_folder
from pipeline.storage.storage import Storage, open_storage

CODE = Path(__file__).resolve().parents[2]  # the folder into which Ray unpacked the code
DIGITS = 8  # of a digest in the name of a job's folder
JOB_EXPIRY_S = 30 * 86400.0  # age at which a node deletes files of jobs; no job runs longer


def on_cluster() -> bool:
    """Whether this process belongs to a job of a cluster."""
    return JOB in os.environ


def job_folder() -> Storage:
    """The folder of this process's job, in the storage."""
    return open_storage(os.environ[JOB])


def job_id() -> str:
    """The id of this process's job; empty outside of one."""
    return os.environ.get(JOB, "").rpartition("/")[2]


def ready_node() -> Path | None:
    """Downloads the job's inputs to this machine, unless they are there. Every process of a node
    calls it first.

    Returns:
        The folder that takes the place of the checkout; None outside of a job.
    """
    if not on_cluster():
        return None
    return materialize(job_folder(), _base())


def materialize(folder: Storage, base: Path) -> Path:
    """Makes a folder with a job's params, inputs and code. Of several processes that call it, one
    downloads, and the others wait.

    Args:
        folder: The job's folder in the storage.
        base: This machine's folder of jobs.

    Raises:
        StorageError: The storage cannot be read.
        DataError: An input is missing or damaged.
    """
    job = Job.read(folder)
    # a killed driver leaves the folder, and a job of another storage may have the same name
    key = digest([folder.address, asdict(job)])[:DIGITS]
    root = base / "jobs" / f"{folder.address.rpartition('/')[2]}-{key}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with flock(base / "lock"):
        if root.is_dir():
            _link_code(root)
            return root
        _forget(base)
        storage = open_storage(job.storage)
        with writing_folder(root) as partial:
            for file in job.inputs:
                place = partial / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                # linked, so that a teacher that five stages need is downloaded once
                os.link(_blob(storage, file, base), place)
            (partial / "params.yaml").write_text(yaml.safe_dump(job.params), encoding="utf-8")
            _link_code(partial)
    return root


def fetch(storage: Storage, file: File, path: Path) -> None:
    """Downloads a file of a job, and compares its digest.

    Raises:
        DataError: The file is not in the storage, or damaged.
    """
    try:
        storage.download(file.blob, path)
    except FileNotFoundError as error:
        raise DataError(
            f"{storage.where(file.blob)} ({file.path}): missing; run the stage again"
        ) from error
    if sha256_file(path) != file.sha256:
        path.unlink()
        raise DataError(f"{storage.where(file.blob)} ({file.path}): damaged; delete it")


def store(storage: Storage, file: File, path: Path) -> None:
    """Uploads a file of a job, unless the storage has it."""
    if storage.size(file.blob) != path.stat().st_size:
        storage.upload(path, file.blob)


def upload_outputs(job: Job, root: Path) -> list[File]:
    """Uploads the outputs of a stage, except shards, which the stage has uploaded; returns them."""
    storage, files = open_storage(job.storage), []
    for output in job.outputs:
        for path in files_below(root / output):
            file = File(str(path.relative_to(root)), sha256_file(path))
            store(storage, file, path)
            files.append(file)
    return files


def mark_done(files: list[File]) -> None:
    """Marks this process's job as done: writes the list of its outputs to the storage."""
    job_folder().write("outputs.json", checked_json({"files": [asdict(file) for file in files]}))


def outputs_of(folder: Storage) -> list[File] | None:
    """The outputs of a job; None where the job is not done.

    Raises:
        DataError: The list of outputs is damaged.
    """
    try:
        data = folder.read("outputs.json")
    except FileNotFoundError:
        return None
    fix = "delete it, so that the job runs again"
    values = parse_checked_json(data, folder.where("outputs.json"), fix)
    return [File(**file) for file in values["files"]]


def _base() -> Path:
    """This user's folder of jobs on this machine, which other users cannot read."""
    base = Path(tempfile.gettempdir()) / f"kdeov-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise StorageError(
            f"{base}: belongs to another user; delete it, or set TMPDIR on all nodes"
        )
    return base


def _link_code(root: Path) -> None:
    """Links the code of this process, and anew where an earlier Ray has taken its own away."""
    for path in CODE.iterdir():
        place = root / path.name
        if not place.exists():
            place.unlink(missing_ok=True)
            place.symlink_to(path)


def _blob(storage: Storage, file: File, base: Path) -> Path:
    path = base / file.blob
    if not path.is_file():
        fetch(storage, file, path)
        path.chmod(0o444)  # several jobs link to it
    os.utime(path)
    return path


def _forget(base: Path) -> None:
    """Deletes old jobs, and old files that no job links to."""
    old = time.time() - JOB_EXPIRY_S
    for path in (base / "jobs").iterdir():
        if path.lstat().st_mtime < old:
            shutil.rmtree(path, ignore_errors=True)
    for path in (base / "blobs").glob("*"):
        if path.stat().st_mtime < old and path.stat().st_nlink == 1:
            path.unlink()
