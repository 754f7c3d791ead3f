"""A published model runs from MLflow, by its exported files alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.publish import publish
from tests.helpers import ROOT

pytestmark = pytest.mark.slow  # the first of these tests trains

Classify = Callable[..., "subprocess.CompletedProcess[str]"]
LABELS = "red circle, blue square"


@pytest.fixture(scope="module")
def published(
    trained: tuple[Layout, Params], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Layout, str]:
    """A checkout whose student is published to its own database, and the id of the run."""
    layout = Layout(tmp_path_factory.mktemp("published") / "checkout")
    shutil.copytree(trained[0].root, layout.root, symlinks=True)
    shutil.copy(ROOT / "params.yaml", layout.params)
    return layout, publish(trained[1], layout)


@pytest.fixture(scope="module")
def model_id(published: tuple[Layout, str]) -> str:
    layout, run = published
    client = MlflowClient(f"sqlite:///{layout.tracking_database}")
    (model,) = client.search_logged_models([client.get_run(run).info.experiment_id])
    return model.model_id


@pytest.fixture
def classify(
    published: tuple[Layout, str],
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> Classify:
    """`kdeov classify` of an image, in the checkout unless another folder is given."""

    def run(model: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        image = tmp_path / "red.png"
        Image.new("RGB", (48, 40), "red").save(image)
        return run_python(
            "-c", "from pipeline.cli.main import app; app()", "classify", str(image), "--labels",
            LABELS, "--json", "--model", model, cwd=cwd or published[0].root,
        )  # fmt: skip

    return run


def test_a_model_is_found_by_its_id_and_by_its_run(
    published: tuple[Layout, str], model_id: str, classify: Classify
) -> None:
    layout, run = published
    answers = [
        classify(address)
        for address in (str(layout.export), f"models:/{model_id}", f"runs:/{run}/student")
    ]
    assert [answer.returncode for answer in answers] == [0, 0, 0], [a.stderr for a in answers]
    wanted, *found = (json.loads(answer.stdout) for answer in answers)
    assert found == [wanted, wanted]
    assert {entry["label"] for entry in wanted["labels"]} == set(LABELS.split(", "))


def test_a_registered_model_is_found_by_version_and_alias(
    published: tuple[Layout, str], classify: Classify
) -> None:
    for address in ("models:/scenes/1", "models:/scenes@candidate"):
        answer = classify(address)
        assert answer.returncode == 0, answer.stderr


def test_no_code_of_a_model_is_run(
    published: tuple[Layout, str], model_id: str, classify: Classify, tmp_path: Path
) -> None:
    artifacts = published[0].tracking_artifacts / "models" / model_id / "artifacts"
    (code,) = artifacts.glob("*.py")
    before = code.read_bytes()
    trap = tmp_path / "trap"
    code.write_text(f"open({str(trap)!r}, 'w')", encoding="utf-8")
    try:
        answer = classify(f"models:/{model_id}")
    finally:
        code.write_bytes(before)
    assert answer.returncode == 0, answer.stderr
    assert not trap.exists()


def test_a_model_leaves_no_copy_behind(
    model_id: str, classify: Classify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert classify(f"models:/{model_id}").returncode == 0
    assert not [*(tmp_path / "tmp").glob("kdeov-model-*")]


@pytest.mark.parametrize(
    "address", ["models:/m-0123456789abcdef0123456789abcdef", "models:/unknown@best", "runs:/x/y"]
)
def test_an_unknown_model_is_an_error_of_one_line(classify: Classify, address: str) -> None:
    answer = classify(address)
    assert answer.returncode == 1
    assert address in answer.stderr.splitlines()[-1] and "Traceback" not in answer.stderr


def test_outside_of_a_checkout_the_variable_says_where_mlflow_is(
    published: tuple[Layout, str], model_id: str, classify: Classify, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    answer = classify(f"models:/{model_id}", cwd=tmp_path)
    assert answer.returncode == 1 and "MLFLOW_TRACKING_URI" in answer.stderr
    database = published[0].tracking_database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    answer = classify(f"models:/{model_id}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "mlruns").exists()


def test_a_checkout_without_a_database_makes_none(
    classify: Classify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Any
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    shutil.copy(root / "params.yaml", tmp_path)
    answer = classify("models:/scenes/1", cwd=tmp_path)
    assert answer.returncode == 1 and "dvc repro" in answer.stderr
    assert not [*tmp_path.rglob("mlflow.db")]
