"""`champion` moves to a candidate that is no worse and whose export gives its golden outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdeov.runtime.card import IMAGE
from pipeline.cli.main import app
from pipeline.report.registry.promote import promote
from tests.helpers.exported import write_export
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.registry import NAME, Registry, another_export, score

pytestmark = pytest.mark.slow  # the first of these tests exports a student

TOP1, TOP5 = "zeroshot/top1", "zeroshot/top5"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "first"
    write_export(folder, boxes=True)
    return folder


@pytest.fixture
def other(export: Path, tmp_path: Path) -> Path:
    """An export of another student."""
    return another_export(export, tmp_path / "second", "another")


@pytest.fixture
def registry(
    tmp_path: Path, with_database: WithDatabase, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """An empty registry in SQLite, which `MLFLOW_TRACKING_URI` names."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    target = with_database(tmp_path / "there")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    return Registry(target)


def test_the_first_candidate_becomes_champion(registry: Registry, export: Path) -> None:
    registry.publish(export, {TOP1: score(0.2)})
    promotion = promote(registry.target.uri, NAME)
    assert (promotion.version, promotion.before) == ("1", None)
    assert registry.aliases() == {"candidate": "1", "champion": "1"}
    assert promote(registry.target.uri, NAME).before == "1"


def test_an_export_is_a_version_once(registry: Registry, export: Path, other: Path) -> None:
    numbers = [str(registry.publish(folder).version) for folder in (export, export, other, other)]
    assert numbers == ["1", "1", "2", "2"]
    assert registry.aliases() == {"candidate": "2"}
    assert str(registry.publish(export).version) == "1" and registry.aliases() == {"candidate": "1"}


def test_a_candidate_within_the_interval_is_promoted(
    registry: Registry, export: Path, other: Path
) -> None:
    registry.publish(export, {TOP1: score(0.90)})
    promote(registry.target.uri, NAME)
    registry.publish(other, {TOP1: score(0.89)})
    promotion = promote(registry.target.uri, NAME)
    assert (promotion.version, promotion.before) == ("2", "1")
    assert [one.metric for one in promotion.comparisons] == [TOP1]
    assert registry.aliases()["champion"] == "2"


def test_a_worse_candidate_is_refused_with_the_reason(
    registry: Registry, export: Path, other: Path, complains: Any
) -> None:
    registry.publish(export, {TOP1: score(0.90), TOP5: score(0.95)})
    promote(registry.target.uri, NAME)
    registry.publish(other, {TOP1: score(0.87), TOP5: score(0.95)})
    with complains("version 1 stays champion", TOP1, "0.87", "[0.88, 0.92]"):
        promote(registry.target.uri, NAME)
    assert registry.aliases() == {"candidate": "2", "champion": "1"}
    assert promote(registry.target.uri, NAME, [TOP5]).version == "2"


def test_a_candidate_whose_export_is_damaged_is_refused(
    registry: Registry, export: Path, other: Path, complains: Any
) -> None:
    registry.publish(export, {TOP1: score(0.90)})
    promote(registry.target.uri, NAME)
    registry.publish(other, {TOP1: score(0.95)})
    model = registry.client.get_model_version(NAME, "2").source.removeprefix("models:/")
    (image,) = (registry.target.file.parent / "artifacts").glob(f"**/{model}/**/export/{IMAGE}")
    image.write_bytes(image.read_bytes()[:-1])
    with complains("models:/scenes/2", IMAGE):
        promote(registry.target.uri, NAME)
    assert registry.aliases()["champion"] == "1"


def test_a_candidate_of_another_run_than_its_export_is_refused(
    registry: Registry, export: Path, complains: Any
) -> None:
    registry.publish(export, {TOP1: score(0.90)})
    registry.client.set_model_version_tag(NAME, "1", "kdeov.fingerprint", "0" * 16)
    with complains("models:/scenes/1", "0" * 16):
        promote(registry.target.uri, NAME)
    assert "champion" not in registry.aliases()


def test_a_name_in_use_by_something_else_is_one_line(
    registry: Registry, export: Path, complains: Any
) -> None:
    registry.client.create_registered_model("prices")
    for action in (
        lambda: registry.publish(export, name="prices"),
        lambda: promote(registry.target.uri, "prices"),
    ):
        with complains("prices", "tracking.model"):
            action()
    assert registry.aliases("prices") == {}


def test_a_name_of_nothing_and_a_name_without_a_candidate_are_one_line(
    registry: Registry, export: Path, complains: Any
) -> None:
    with complains("models:/scenes@candidate", "kdeov publish"):
        promote(registry.target.uri, NAME)
    registry.publish(export)
    registry.client.delete_registered_model_alias(NAME, "candidate")
    with complains("models:/scenes@candidate", "kdeov publish"):
        promote(registry.target.uri, NAME)


def test_the_command_says_what_moved_and_why_not(
    registry: Registry, export: Path, other: Path
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["promote", *arguments])
        return answer.exit_code, answer.output

    registry.publish(export, {TOP1: score(0.90)})
    assert run(NAME) == (0, "scenes: version 1 is the champion\n")
    registry.publish(other, {TOP1: score(0.5)})
    status, text = run(NAME, "--metrics", TOP1)
    assert status == 1 and len(text.splitlines()) == 1 and "stays champion" in text
    status, text = run()  # no checkout here, so no name
    assert status == 1 and len(text.splitlines()) == 1
    registry.publish(other, {TOP1: score(0.91)})
    status, text = run(NAME)
    assert status == 0 and text.splitlines()[0].endswith("before it version 1")
    assert run(NAME)[1] == "scenes: version 2 is the champion already\n"
