"""The doctor asks MLflow what a run will ask of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.tracker import mlflow
from tests.helpers.mlflow_databases import WithDatabase, deleted, half_made, newer, older


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (half_made, "delete {file}"),
        (older, "mlflow db upgrade"),
        (newer, "install that version"),
        (deleted, "mlflow experiments restore"),
    ],
)
def test_a_database_that_mlflow_refuses_is_a_warning_with_its_cure(
    tmp_path: Path, params: Params, with_database: WithDatabase,
    damage: Callable[[Path], None], words: str,
) -> None:  # fmt: skip
    file = with_database(tmp_path).file
    assert file is not None
    damage(file)
    before = file.read_bytes()
    (check,) = mlflow(params, Layout(tmp_path))
    assert check.verdict == "warning" and str(file) in check.finding and "\n" not in check.text
    assert words.format(file=file) in check.fix and "kdeov publish" in check.fix
    assert file.read_bytes() == before


def test_a_sound_database_can_be_written_and_stays_as_it_is(
    tmp_path: Path, params: Params, with_database: WithDatabase
) -> None:
    target = with_database(tmp_path)
    client = target.client()
    assert target.file is not None
    for _ in ("without an experiment", "with it"):
        before = target.file.read_bytes()
        (check,) = mlflow(params, Layout(tmp_path))
        assert check.verdict == "ok" and target.file.read_bytes() == before
        target.experiment_id(client)
