"""The evaluations read the student and the cache, never the weights of the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kdeov.errors import KdeovError
from kdeov.models.model import KDEOVModel
from pipeline.artifacts.identity import IDENTITY
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.efficiency import efficiency
from pipeline.evaluation.linear_probe import linear_probe
from pipeline.evaluation.retrieval import retrieval
from pipeline.evaluation.shared.embeddings import CachedSplit, load_student
from pipeline.evaluation.zero_shot import zero_shot
from pipeline.report.report import report
from pipeline.runtime.job import Job
from tests.helpers import ROOT
from tests.helpers.results import edit_json, read_metrics, remove_labels

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


@pytest.mark.parametrize("stage", [zero_shot, linear_probe, retrieval, report])
def test_evaluations_and_report_read_the_identity_of_the_teacher_and_not_its_weights(
    copied: Trained, stage: Callable[[Params, Layout], None]
) -> None:
    paths, params = copied
    removed = [path for path in paths.teacher.iterdir() if path.name != IDENTITY]
    assert removed
    for path in removed:
        path.unlink()
    stage(params, paths)


@pytest.mark.parametrize("stage", ["zero_shot", "linear_probe", "retrieval"])
def test_a_job_uploads_the_identity_of_the_teacher_and_not_its_weights(
    copied: Trained, make_params: Callable[..., Params], stage: str
) -> None:
    paths, _ = copied
    shutil.copy(ROOT / "params.yaml", paths.params)
    params = make_params(data={"storage": str(paths.root / "storage")})
    job, places = Job.of(stage, params, paths)
    inputs = {file.path for file in job.inputs}
    assert {name for name in inputs if name.startswith("out/teacher")} == {
        f"out/teacher/{IDENTITY}"
    }
    assert "out/student/student.safetensors" in inputs and inputs == set(places)


def test_evaluating_twice_gives_the_same_bytes(copied: Trained) -> None:
    paths, params = copied
    folders = paths.evaluation, paths.metrics
    wanted = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in wanted}
    for stage in (zero_shot, retrieval):
        stage(params, paths)
    assert {path: path.read_bytes() for path in wanted} == before


def test_images_without_labels_are_retrieved_and_not_classified(copied: Trained, log: Any) -> None:
    paths, params = copied
    remove_labels(paths)
    zero_shot(params, paths)
    retrieval(params, paths)
    assert read_metrics(paths, "zero_shot") == {"absent": "scenes has no labels"}
    assert "scenes has no labels" in log.text
    assert read_metrics(paths, "retrieval")["student"]["images"] == 12


def test_a_split_without_labels_captions_or_teacher_has_none(trained: Trained) -> None:
    paths, params = trained
    shards = open_cache(params, paths, "test")
    samples = list(shards)
    whole = CachedSplit.of(samples, shards.dim, captions=True)
    assert whole.labels is not None and whole.teacher is not None
    assert whole.teacher.norm(dim=1) == pytest.approx(torch.ones(12), abs=1e-5)
    assert (whole.size, len(whole.captions), len(whole.texts)) == (12, 36, 36)
    first = whole.texts[whole.image_of_text == 0]
    assert first.numpy() == pytest.approx(samples[0].text_embeddings.astype(np.float32), abs=1e-3)
    bare = [
        replace(s, view_embeddings=s.view_embeddings[:0], text_embeddings=s.text_embeddings[:0],
                captions=[], label=None)
        for s in samples
    ]  # fmt: skip
    empty = CachedSplit.of(bare, shards.dim, captions=True)
    assert (empty.labels, empty.teacher, empty.captions, empty.size) == (None, None, [], 12)
    assert empty.texts.shape == (0, shards.dim) and not len(empty.image_of_text)


@pytest.mark.parametrize("file", ["config.json", "student.safetensors", "text_encoder.json"])
@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_damaged_student_names_its_stage_in_a_checkout_and_not_where_python_saved_it(
    copied: Trained, complains: Any, file: str, content: str | None
) -> None:
    paths, params = copied
    path = paths.student / file
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(KdeovError) as caught:
        KDEOVModel.load(paths.student, "cpu")
    if path.exists():
        assert "dvc" not in str(caught.value) and "save it again" in str(caught.value)
    for stage in (load_student, efficiency):
        with complains(paths.student, "run `dvc repro -f distill`"):
            stage(params, paths)


def test_a_student_of_another_teacher_is_not_evaluated(copied: Trained, complains: Any) -> None:
    paths, params = copied
    path = paths.teacher / "identity.json"
    edit_json(path, lambda v: v.update(weights_sha256="0" * 64))
    with complains("teacher.weights_sha256", "run `dvc repro embed`"):
        retrieval(params, paths)
