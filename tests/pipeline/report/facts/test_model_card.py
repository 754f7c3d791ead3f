"""The model card has the facts of the report, hubs can read it, and it replaces its own alone."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.config.paths import Layout
from pipeline.report.facts.data import DataFacts
from pipeline.report.facts.model_card import model_card, plain, write_card
from pipeline.report.facts.provenance import SOFTWARE_LICENSE, Provenance

pytestmark = pytest.mark.slow  # the first of these tests trains


@pytest.fixture
def card(reported: Any) -> Callable[..., str]:
    """The text of a card of the tiny run; some fields of its record may differ."""
    results, paths = reported.results, reported.paths

    def make(**fields: str) -> str:
        changed = replace(results, run=replace(results.run, **fields))
        return model_card(changed, Provenance.read(changed, paths), DataFacts.read(paths))

    return make


def test_hubs_read_license_tags_data_and_results(
    card: Callable[..., str], reported: Any, tmp_path: Path
) -> None:
    write_card(tmp_path / "README.md", card())
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.library_name) == ("other", "kdeov")
    assert data.datasets == ["scenes"] and "clip" in data.tags
    assert data.model_name == reported.results.run.name
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    top1 = reported.results.zero_shot["student"]["top1"]
    assert found["zero-shot top-1"] == pytest.approx(top1, abs=1e-4)
    assert found["text to image, R@1"] == pytest.approx(
        reported.results.retrieval["student"]["t2i_r1"], abs=1e-4
    )
    tasks = {result.task_type for result in data.eval_results}
    assert "zero-shot-image-classification" in tasks


def test_the_card_has_the_facts_and_licenses_of_the_report(
    card: Callable[..., str], reported: Any
) -> None:
    text, page = card(), reported.text
    found = Provenance.read(reported.results, reported.paths)
    assert ("KDEOV, which made it", SOFTWARE_LICENSE) in found.licenses
    for label, value in [*found.facts, *found.licenses]:
        assert f"| {plain(label)} | {plain(value)} |" in text
        assert f"<bdi>{value}</bdi>" in page
    assert f"error of its probabilities: {reported.results.zero_shot['student']['ece']:.3f}" in text


def test_the_license_of_the_software_is_that_of_the_project(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == SOFTWARE_LICENSE


def test_names_from_outside_are_no_markup(card: Callable[..., str]) -> None:
    text = card(teacher="<b>|*a*|\n# [x](y) `c` \u202e$e$")
    assert "\\<b\\>\\|\\*a\\*\\| \\# \\[x\\](y) \\`c\\` \\$e\\$" in text
    assert "<b>" not in text and "\u202e" not in text


def test_a_card_of_its_own_is_replaced_and_any_other_file_is_not(
    card: Callable[..., str], tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "README.md"
    for _ in range(2):
        write_card(path, card())
    own = path.read_text(encoding="utf-8")
    for other in ("my notes", own + "\nmore", own.replace("scenes", "other"), ""):
        path.write_text(other, encoding="utf-8")
        with complains(path, "-o"):
            write_card(path, card())
        assert path.read_text(encoding="utf-8") == other
    path.write_bytes(b"\xff\xfe")
    with complains(path, "-o"):
        write_card(path, card())
    with complains(tmp_path, "is a folder"):
        write_card(tmp_path, card())


def test_the_command_writes_the_card_and_an_edited_metrics_file_is_one_line(
    copied: tuple[Layout, Any], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    paths, _ = copied
    (paths.root / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    monkeypatch.chdir(paths.root)
    result = CliRunner().invoke(app, ["card", "-o", "README.md"])
    assert result.exit_code == 0, result.output
    assert (paths.root / "README.md").is_file() and "wrote README.md" in result.output
    path = paths.metrics / "zero_shot.json"
    text = path.read_text(encoding="utf-8").replace('"classes": 64', '"classes": 65')
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["card", "-o", "other.md"])
    assert result.exit_code == 1 and not (paths.root / "other.md").exists()
    (line,) = result.output.strip().splitlines()
    assert "zero_shot.json" in line and "dvc repro" in line
