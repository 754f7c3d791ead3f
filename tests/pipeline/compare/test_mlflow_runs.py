"""`kdeov compare` of runs in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.tracking.mlflow_run import log_params
from pipeline.tracking.target import TrackingTarget
from tests.helpers import ROOT
from tests.helpers.run_files import write_run

pytestmark = pytest.mark.slow

FILES = {"metrics": "metrics", "out/evaluation/zero_shot": "evaluation/zero_shot",
         "out/evaluation/retrieval": "evaluation/retrieval"}  # fmt: skip
RATE = "distill.learning_rate"


@pytest.fixture
def checkout(
    tmp_path: Path, with_database: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """A checkout whose MLflow has the runs `weak` and `strong`."""
    layout = Layout(tmp_path / "checkout")
    layout.root.mkdir()
    shutil.copy(ROOT / "params.yaml", layout.params)
    shutil.copy(ROOT / "dvc.yaml", layout.root / "dvc.yaml")
    values = load_params(layout.params)
    target = TrackingTarget.of(values.tracking, layout)
    client = target.client()
    experiment = target.experiment_id(client)
    for name, known in (("weak", 40), ("strong", 48)):
        folder = tmp_path / name
        folder.mkdir()
        write_run(folder, known, {})
        run = client.create_run(experiment, run_name=name)
        distill = {"learning_rate": known, "epochs": 3}
        paths = {"prepare": {"path": "scenes.yaml"}, "teacher": {"path": "ViT-B-32.pt"}}
        log_params(client, run, {"distill": distill, **paths})
        for place, artifact in FILES.items():
            client.log_artifacts(run.info.run_id, str(folder / place), artifact)
    monkeypatch.chdir(layout.root)
    return layout


def run(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "200"})


def test_runs_of_mlflow_are_paired_by_their_artifacts(checkout: Layout) -> None:
    client = TrackingTarget.of(load_params(checkout.params).tracking, checkout).client()
    (strong,) = client.search_runs(["1"], "attributes.run_name = 'strong'")
    result = run("weak", f"runs:/{strong.info.run_id}")
    assert result.exit_code == 0, result.output
    assert "+0.125 [+0.0" in result.output and "better" in result.output
    assert RATE in result.output and "distill.epochs" not in result.output
    near = run("weak", "stron")
    assert near.exit_code == 1 and "did you mean strong?" in near.output


def test_folders_of_paths_which_mlflow_does_not_have_are_no_difference(checkout: Layout) -> None:
    values = yaml.safe_load(checkout.params.read_text(encoding="utf-8"))
    assert values["prepare"]["path"].endswith("/scenes.yaml")
    write_run(checkout.root, 40, values)
    result = run("workspace", "weak")
    assert result.exit_code == 0, result.output
    assert "teacher.path" in result.output and "prepare.path" not in result.output


def test_a_run_whose_answers_were_deleted_says_how_to_get_them(checkout: Layout) -> None:
    for file in checkout.tracking_artifacts.rglob("answers.npz"):
        file.unlink()
    result = run("weak", "strong")
    assert result.exit_code == 0 and "not paired" in result.output
    assert "kdeov publish" in result.output


def test_a_deleted_experiment_is_one_line_with_its_cure(checkout: Layout) -> None:
    target = TrackingTarget.of(load_params(checkout.params).tracking, checkout)
    client = target.client()
    client.delete_experiment(target.experiment_id(client))
    result = run("weak", "strong")
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
    assert "deleted" in result.output and "mlflow experiments restore" in result.output
