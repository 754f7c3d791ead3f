"""The stage `distill` fits fusion to the finished student, and changes nothing else of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.shared.student import student_of
from pipeline.storage.checked import read_checked_json
from pipeline.training import fusion
from pipeline.training.fusion import fit_student_fusion

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def test_the_loss_of_the_fit_is_a_metric_of_the_run(trained: Trained) -> None:
    paths, params = trained
    assert params.distill.fusion_epochs > 0
    assert 0 < read_checked_json(paths.metrics / "distill.json")["fusion_loss"] < 10
    assert RunRecord.read(paths.student).fusion_is_trained


def test_the_fit_changes_fusion_alone_and_gives_the_same_weights_again(trained: Trained) -> None:
    paths, params = trained
    before = student_of(paths, "cpu").student
    students = [copy.deepcopy(before) for _ in range(2)]
    for student in students:
        shards = open_cache(params, paths, "train")
        assert fit_student_fusion(student, shards, params.distill, "cpu")["fusion_loss"] > 0
    one, two = (student.state_dict() for student in students)
    for name, value in before.state_dict().items():
        assert torch.equal(one[name], two[name])
        assert name.startswith("fusion.") or torch.equal(one[name], value), name
    assert not torch.equal(one["fusion.out.weight"], before.fusion.out.weight)


def test_of_many_images_evenly_spaced_shards_are_taken(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, params = trained
    shards = open_cache(params, paths, "train")  # of 10, 10 and 4 images
    keys = [sample.key for sample in shards]
    taken = {}
    for count in (24, 20, 10, 3):
        monkeypatch.setattr(fusion, "FUSION_SAMPLES", count)
        taken[count] = [sample.key for sample in fusion.spread(shards)]
    assert taken == {24: keys, 20: keys, 10: keys[:20], 3: keys[:10]}


def test_no_epochs_leave_fusion_as_it_is(
    trained: Trained, make_params: Callable[..., Params]
) -> None:
    paths, _ = trained
    params = make_params(distill={"fusion_epochs": 0})
    student = student_of(paths, "cpu").student
    before = copy.deepcopy(student.state_dict())
    shards = open_cache(params, paths, "train")
    assert fit_student_fusion(student, shards, params.distill, "cpu") == {}
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
