"""An alias of the registry is resolved to the version that it names now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import StorageError
from pipeline.tracking.registry import resolve
from tests.helpers.mlflow_databases import WithDatabase


@pytest.fixture
def client(tmp_path: Path, with_database: WithDatabase, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a registry that `MLFLOW_TRACKING_URI` names, in a folder without a checkout."""
    target = with_database(tmp_path / "there")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    monkeypatch.chdir(tmp_path)
    return target.client()


def test_an_alias_is_resolved_to_the_version_that_it_names_now(client: Any) -> None:
    client.create_registered_model("scenes")
    for number in ("1", "2"):
        client.create_model_version("scenes", "file:///nowhere")
        client.set_registered_model_alias("scenes", "champion", number)
        assert resolve("models:/scenes@champion") == f"models:/scenes/{number}"


@pytest.mark.parametrize("address", ["out/export", "models:/scenes/3", "models:/m-1", "a@b"])
def test_an_address_without_an_alias_stays(address: str) -> None:
    assert resolve(address) == address


@pytest.mark.parametrize("alias", ["models:/absent@champion", "models:/scenes@absent"])
def test_an_alias_that_is_absent_is_one_line(client: Any, complains: Any, alias: str) -> None:
    client.create_registered_model("scenes")
    with complains(alias, "check the name"):
        resolve(alias)


def test_a_server_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match="models:/scenes@champion"):
        resolve("models:/scenes@champion")
