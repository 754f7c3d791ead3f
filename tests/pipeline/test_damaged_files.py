"""Every file that one stage writes and another reads: a flipped bit, a cut or a swap of two files
of one kind is a `KdeovError` that names the file and the fix, or changes nothing that is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdeov.errors import KdeovError
from kdeov.models.model import KDEOVModel
from kdeov.weights.state_dict import state_dict_sha256
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import RunRecord, read_history
from pipeline.artifacts.step_curve import read_steps
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.detection import detection
from pipeline.evaluation.efficiency import efficiency
from pipeline.evaluation.linear_probe import linear_probe
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.shared.embeddings import read_arrays
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.export.export import export
from pipeline.prepare.prepare import prepare
from pipeline.report.publishing.publish_model import export_files
from pipeline.report.results import Results
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_teacher
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.distill import distill
from tests.helpers.box_heads import save_untrained_head
from tests.helpers.damage import flips

pytestmark = pytest.mark.slow  # the first of these tests trains

FLIPS = 30
RUN = "work/runs/*"  # of which each checkout here has one


@dataclass(frozen=True)
class Checkout:
    """A checkout in which all stages have run.

    Attributes:
        layout: Its paths.
        params: Its params.
    """

    layout: Layout
    params: Params

    def path(self, pattern: str) -> Path:
        """The last file of a pattern."""
        return sorted(self.layout.root.glob(pattern))[-1]


def student(checkout: Checkout) -> Any:
    model = KDEOVModel.load(checkout.layout.student, "cpu")
    return model.config(), state_dict_sha256(model.state_dict())


def teacher(checkout: Checkout) -> Any:
    teacher = load_teacher(checkout.layout.teacher)
    return teacher.identity(), teacher.weights_sha256


def exported(checkout: Checkout) -> list[bytes]:
    """The files of the export, as they are published."""
    return [path.read_bytes() for path in export_files(checkout.layout.export)]


def results(checkout: Checkout) -> Any:
    return Results.read(checkout.params, checkout.layout)


def arrays(checkout: Checkout, name: str) -> Any:
    fingerprint = RunRecord.read(checkout.layout.student).fingerprint
    found = read_arrays(checkout.layout.evaluation / name, fingerprint)
    return {key: np.asarray(value).tolist() for key, value in found.items()}


def run_of(checkout: Checkout) -> Any:
    return open_storage(str(checkout.path(RUN)))


def checkpoint(checkout: Checkout) -> Any:
    state = CheckpointStore(run_of(checkout) / "checkpoints").latest()
    assert state is not None
    return state["epoch"], state["history"], state_dict_sha256(state["student"])


KINDS: dict[str, Callable[[Checkout], Any]] = {
    "out/images/dataset.json": lambda c: Dataset.read(c.layout.images),
    "out/images/train/manifest.json": lambda c: (
        Dataset.read(c.layout.images), Manifest.read(c.layout.images / "train"),
    ),
    "out/embeddings/train/manifest.json": lambda c: Manifest.read(c.layout.embeddings / "train"),
    "out/teacher/identity.json": teacher,
    "out/teacher/model.safetensors": teacher,
    "out/student/config.json": student,
    "out/student/student.safetensors": student,
    "out/student/text_encoder.json": student,
    "out/student/text_encoder.safetensors": student,
    "out/student/run.json": lambda c: RunRecord.read(c.layout.student),
    "out/export/card.json": exported,
    "out/export/image.onnx": exported,
    "out/export/image.int8.onnx": exported,
    "metrics/distill.json": results,
    "metrics/zero_shot.json": results,
    "metrics/linear_probe.json": results,
    "metrics/retrieval.json": results,
    "metrics/detection.json": results,
    "metrics/efficiency.json": results,
    "metrics/history.csv": results,
    "out/evaluation/zero_shot/predictions.npz": lambda c: arrays(c, "zero_shot/predictions.npz"),
    "out/evaluation/zero_shot/predictions.json": lambda c: arrays(c, "zero_shot/predictions.npz"),
    "out/evaluation/retrieval/hits.npz": lambda c: arrays(c, "retrieval/hits.npz"),
    "out/evaluation/retrieval/hits.json": lambda c: arrays(c, "retrieval/hits.npz"),
    "out/evaluation/detection/found.npz": lambda c: arrays(c, "detection/found.npz"),
    "out/evaluation/detection/found.json": lambda c: arrays(c, "detection/found.npz"),
    f"{RUN}/checkpoints/*.pt": checkpoint,
    f"{RUN}/steps/*.csv": lambda c: read_steps(run_of(c) / "steps"),
    f"{RUN}/history.json": lambda c: read_history(run_of(c), c.path(RUN).name),
}  # fmt: skip
FIXES = ("dvc repro", "delete it", "save it again")


@pytest.fixture(scope="module")
def one(trained: tuple[Layout, Params], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that a test may damage, if it mends it."""
    layout = Layout(tmp_path_factory.mktemp("one") / "checkout")
    shutil.copytree(trained[0].root, layout.root, symlinks=True)
    return Checkout(layout, trained[1])


@pytest.fixture(scope="module")
def two(
    one: Checkout, make_params: Any, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """Another run, on the same embeddings, and another data set and teacher beside it."""
    layout = Layout(tmp_path_factory.mktemp("two") / "checkout")
    shutil.copytree(one.layout.root, layout.root, symlinks=True)
    shutil.rmtree(layout.runs)
    params = make_params(
        distill={"seed": 1, "epochs": 1},
        efficiency={"threads": 1, "batch_size": 1, "repeats": 1, "reference_size": 32},
    )
    distill(params, layout)
    save_untrained_head(params, layout)
    for stage in (export, zero_shot, linear_probe, retrieval, detection, efficiency):
        stage(params, layout)
    prepare(make_params(prepare={"seed": 1}), layout)
    return Checkout(layout, params)


def outcome(read: Callable[[Checkout], Any], checkout: Checkout, path: Path) -> Any:
    """The value that is read, or None after an error of one line that names file and fix."""
    try:
        return read(checkout)
    except KdeovError as error:
        text = str(error)
        assert "\n" not in text
        assert str(path) in text or f"{path.parent}: " in text, text
        assert any(fix in text for fix in FIXES), text
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_with_its_fix_or_reads_the_same(one: Checkout, kind: str) -> None:
    path, read = one.path(kind), KINDS[kind]
    whole, expected, found = path.read_bytes(), read(one), []
    try:
        for damaged in [b"", whole[: len(whole) // 2], *flips(whole, FLIPS, seed=len(whole))]:
            path.write_bytes(damaged)
            found.append(outcome(read, one, path))
    finally:
        path.write_bytes(whole)
    assert found[:2] == [None, None]
    assert all(value in (None, expected) for value in found)
    assert found.count(None) >= 2 + FLIPS // 2
    assert read(one) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_run_is_not_taken_for_this_ones(
    one: Checkout, two: Checkout, kind: str
) -> None:
    path, read = one.path(kind), KINDS[kind]
    whole, expected, other = path.read_bytes(), read(one), two.path(kind).read_bytes()
    try:
        path.write_bytes(other)
        found = outcome(read, one, path)
    finally:
        path.write_bytes(whole)
    assert found == (expected if other == whole else None)
