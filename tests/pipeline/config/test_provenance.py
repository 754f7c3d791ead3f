"""The fingerprint of a run: it changes with what the numbers depend on, and with nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artifacts.identity import read_teacher_identity
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import code_digest, fingerprint, git_state
from pipeline.training.distill import _name
from tests.helpers.manifests import change_first_shard
from tests.helpers.results import edit_json
from tests.helpers.teachers import clip_file

MakeParams = Callable[..., Params]


def of(params: Params, layout: Layout) -> str:
    return _name(params, layout, read_teacher_identity(layout.teacher)).fingerprint


@pytest.fixture
def before(built: Layout, params: Params) -> str:
    return of(params, built)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 3},
        {"learning_rate": 0.5},
        {"losses": {"affinity": 0.1}},
        {"backbone": "yolov5s"},
        {"image_size": 64},
        {"num_streams": 8},
        {"shuffle_buffer": 3},
        {"micro_batch_size": 8},
    ],
    ids=str,
)
def test_every_training_param_counts(
    built: Layout, make_params: MakeParams, before: str, changes: dict[str, Any]
) -> None:
    assert of(make_params(distill=changes), built) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": {"mode": "local", "num_workers": 7, "dataloader_workers": 3}},
        {"tracking": {"uri": "http://elsewhere", "experiment": "other"}},
        {"report": {"examples": 3}},
        {"retrieval": {"rerank": 0}},
        {"efficiency": {"threads": 4}},
        {"prepare": {"path": "/moved/scenes.yaml"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_where_things_run_and_what_comes_after_does_not_count(
    built: Layout, make_params: MakeParams, before: str, changes: dict[str, Any]
) -> None:
    assert of(make_params(**changes), built) == before


def test_a_moved_checkout_keeps_its_fingerprint(
    checkout: Layout, params: Params, before: str
) -> None:
    assert of(params, checkout) == before


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_manifests_of_what_is_trained_on_count(
    checkout: Layout, params: Params, before: str, side: str, split: str
) -> None:
    change_first_shard(getattr(checkout, side) / split)
    edit_json(checkout.images / "dataset.json", lambda v: v["manifests"].clear())
    assert of(params, checkout) != before


def test_the_test_split_does_not_count(checkout: Layout, params: Params, before: str) -> None:
    (checkout.images / "test" / "manifest.json").write_text("{}", encoding="utf-8")
    edit_json(checkout.images / "dataset.json", lambda v: v["manifests"].clear())
    assert of(params, checkout) == before


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("kdeov/training/losses.py", True),
        ("pipeline/training/loop.py", True),
        ("kdeov/evaluation/metrics.py", False),
        ("pipeline/report/report.py", False),
        ("pipeline/console.py", False),
    ],
)
def test_the_code_that_trains_counts_and_other_code_does_not(
    checkout: Layout, root: Path, params: Params, before: str, file: str, counts: bool
) -> None:
    package = file.partition("/")[0]
    (checkout.root / package).unlink()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / package, checkout.root / package, ignore=ignore)
    assert of(params, checkout) == before
    with open(checkout.root / file, "a", encoding="utf-8") as source:
        source.write("# a change\n")
    assert (of(params, checkout) != before) == counts


def test_backbone_weights_count_by_their_contents(
    built: Layout, make_params: MakeParams, before: str, tmp_path: Path
) -> None:
    found = []
    for folder, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        path = tmp_path / folder / "yolo.pt"
        path.parent.mkdir()
        path.write_bytes(data)
        found.append(of(make_params(distill={"backbone_weights": str(path)}), built))
    assert found[0] == found[1] != found[2]
    assert before not in found


def test_a_record_names_no_folder_of_this_machine(
    built: Layout, make_params: MakeParams, weights: Path
) -> None:
    params = make_params(teacher=clip_file(weights))
    record = _name(params, built, read_teacher_identity(built.teacher))
    assert str(weights.parent) not in json.dumps([record.params, record.ingredients])


def test_a_fingerprint_is_sixteen_digits_of_its_ingredients_in_any_order() -> None:
    assert fingerprint(a=1, b={"c": 2, "d": 3}) == fingerprint(b={"d": 3, "c": 2}, a=1)
    assert len(fingerprint(a=1)) == 16 and fingerprint(a=1) != fingerprint(a=2)


@pytest.mark.parametrize("text", [None, "stages: {}", "stages: [", "- 1"])
def test_a_folder_that_is_no_checkout_is_named(
    tmp_path: Path, complains: Any, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "dvc.yaml").write_text(text, encoding="utf-8")
    with complains(tmp_path / "dvc.yaml", "no stage distill", "run in a checkout"):
        code_digest(tmp_path, "distill")


def test_a_folder_outside_of_git_has_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {}


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A checkout after its commit: code, params, pages, and what stages write."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    stages = {
        "distill": {
            "cmd": "true",
            "outs": ["out/student", {"kdeov/written.json": {"cache": False}}],
            "metrics": [{"metrics/distill.json": {"cache": False}}],
            "plots": [{"metrics/history.csv": {"cache": False}}],
        }
    }
    texts = {"dvc.yaml": yaml.safe_dump({"stages": stages})}
    names = (
        "dvc.lock", "metrics/distill.json", "metrics/history.csv", "kdeov/written.json",
        "kdeov/code.py", "params.yaml", "docs/results.svg", "tests/test_code.py",
    )  # fmt: skip
    texts |= dict.fromkeys(names, "1")
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "dirty"),
    [
        ((), "false"),
        (("dvc.lock", "metrics/distill.json", "metrics/history.csv"), "false"),
        (("kdeov/written.json",), "false"),  # wherever dvc.yaml says that a stage writes
        (("docs/results.svg", "tests/test_code.py"), "false"),  # no number depends on them
        (("kdeov/code.py",), "true"),
        (("params.yaml",), "true"),
        (("dvc.yaml",), "true"),
    ],
)
def test_a_checkout_is_dirty_by_edits_of_what_results_depend_on(
    committed: Path, names: tuple[str, ...], dirty: str
) -> None:
    for name in names:
        with (committed / name).open("a", encoding="utf-8") as file:
            file.write("\n# 2")
    assert git_state(committed)["git.dirty"] == dirty


def test_an_output_that_a_stage_has_deleted_before_it_writes_it_is_no_edit(committed: Path) -> None:
    (committed / "metrics" / "distill.json").unlink()
    assert git_state(committed)["git.dirty"] == "false"


def test_the_params_of_a_dvc_experiment_are_no_edit(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (committed / "params.yaml").write_text("2", encoding="utf-8")
    monkeypatch.setenv("DVC_EXP_NAME", "wide-elk")
    assert git_state(committed)["git.dirty"] == "false"
    (committed / "kdeov" / "code.py").write_text("2", encoding="utf-8")
    assert git_state(committed)["git.dirty"] == "true"
