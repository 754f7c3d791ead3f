"""Names that MLflow does not document are those of the installed MLflow."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
from mlflow import environment_variables
from mlflow.utils import mlflow_tags

from pipeline.tracking import compat


def test_names_are_those_of_the_installed_mlflow() -> None:
    assert mlflow_tags.MLFLOW_DATASET_CONTEXT == compat.DATASET_CONTEXT_TAG
    assert mlflow_tags.MLFLOW_RUN_NOTE == compat.DESCRIPTION_TAG
    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == compat.PARENT_TAG
    assert mlflow_tags.MLFLOW_SOURCE_NAME == compat.SOURCE_NAME_TAG
    variable = environment_variables.MLFLOW_SERVER_ENABLE_JOB_EXECUTION
    assert variable.name == compat.JOB_EXECUTION_VARIABLE
    hosts = environment_variables.MLFLOW_SERVER_ALLOWED_HOSTS
    origins = environment_variables.MLFLOW_SERVER_CORS_ALLOWED_ORIGINS
    assert (hosts.name, origins.name) == (compat.HOSTS_VARIABLE, compat.ORIGINS_VARIABLE)


def test_the_page_knows_the_queries_and_tags_that_open_it() -> None:
    scripts = (Path(mlflow.__file__).parent / "server" / "js" / "build").rglob("*.js")
    texts = [path.read_text(errors="replace", encoding="utf-8") for path in scripts]
    names = [*compat.VIEW.split("="), compat.SHARED_VIEW_KEY.partition("=")[0],
             compat.SHARED_VIEW_TAG.removesuffix("kdeov"), compat.EXPERIMENT_KIND_TAG,
             compat.EXPERIMENT_KIND, "selectedColumns", "columnOrder"]  # fmt: skip
    assert [name for name in names if not any(name in text for text in texts)] == []


def test_columns_with_addresses_of_files_are_all_of_that_name(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        columns = {
            (table, row[1]) for table in tables for row in connection.execute(
                f"PRAGMA table_info({table})"
            )
        }  # fmt: skip
    names = {column for _, column in compat.FILE_COLUMNS}
    assert {(table, column) for table, column in columns if column in names} == {
        *compat.FILE_COLUMNS
    }
