"""The rules of the layout that import-linter does not check: what DVC watches, the size of files,
and no telemetry. Who imports whom stands in pyproject.toml.
"""

from __future__ import annotations

import configparser
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.provenance import is_code
from tests.helpers import ROOT
from tests.helpers.closure import UNLISTED, closure

PACKAGES = ("kdeov", "pipeline", "stages")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
WINGS = sorted(
    path.parent
    for package in ("kdeov", "pipeline")
    for path in (ROOT / package).glob("*/__init__.py")
)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def in_checkout(path: Path) -> str:
    """Path within the checkout."""
    return str(path.relative_to(ROOT))


def test_every_stage_has_a_script_of_its_name_and_runs_it() -> None:
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(STAGES)
    assert all(stage["cmd"] == f"python -m stages.{name}" for name, stage in STAGES.items())


def code_deps(name: str) -> list[str]:
    """What a stage lists of this project's code."""
    return [dep for dep in STAGES[name]["deps"] if is_code(dep)]


@pytest.mark.parametrize("name", STAGES)
def test_every_file_that_a_stage_computes_with_lies_in_a_listed_folder(name: str) -> None:
    deps, used = code_deps(name), closure(ROOT / "stages" / f"{name}.py")
    packages = {path for path in used if path.endswith("/__init__.py")}
    covered = {path for path in used for dep in deps if path == dep or path.startswith(f"{dep}/")}
    assert used - covered <= packages
    assert [dep for dep in deps if not any(f"{p}/".startswith(f"{dep}/") for p in used)] == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_few_folders_and_nothing_that_only_places_or_shows(name: str) -> None:
    deps = code_deps(name)
    assert len(deps) <= 12
    assert [dep for dep in deps if f"{dep}/".startswith(UNLISTED)] == []
    single = {dep for dep in deps if (ROOT / dep).is_file()}
    assert single <= {
        f"stages/{name}.py", f"pipeline/evaluation/{name}.py",
        "kdeov/training/optim.py", "kdeov/data/images.py",
    }  # fmt: skip


def test_packages_outside_of_listed_folders_hold_no_code() -> None:
    for path in {p for name in STAGES for p in closure(ROOT / "stages" / f"{name}.py")}:
        if path.endswith("/__init__.py") and not any(
            path.startswith(f"{dep}/") for name in STAGES for dep in code_deps(name)
        ):
            assert (ROOT / path).read_text(encoding="utf-8").strip() == "", path


def names(stage: dict[str, Any], *kinds: str) -> set[str]:
    """What a stage lists, without options."""
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_every_output_that_a_stage_reads_is_made_by_another() -> None:
    made = {
        output: name
        for name, stage in STAGES.items()
        for output in names(stage, "outs", "metrics", "plots")
    }
    assert len(made) == sum(len(names(s, "outs", "metrics", "plots")) for s in STAGES.values())
    for name, stage in STAGES.items():
        for dep in names(stage, "deps"):
            if dep.startswith(("out/", "metrics/")):
                makers = [m for output, m in made.items() if f"{dep}/".startswith(f"{output}/")]
                assert len(makers) == 1 and makers != [name], (name, dep)


def test_stages_depend_on_manifests_so_that_shards_may_lie_elsewhere() -> None:
    for name, stage in STAGES.items():
        read = {dep for dep in names(stage, "deps") if dep.startswith(("out/images", "out/embed"))}
        assert all(dep.endswith(".json") for dep in read), name


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, ROOT / "dvc.yaml"], ids=in_checkout)
def test_no_file_grows_beyond_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=in_checkout)
def test_no_wing_has_more_than_twelve_files(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= 12


def test_beside_the_wings_lie_only_the_modules_that_the_design_names() -> None:
    loose = {in_checkout(path) for path in SOURCES if len(path.relative_to(ROOT).parts) == 2}
    assert {name for name in loose if not name.startswith("stages/")} == {
        "kdeov/__init__.py", "kdeov/errors.py", "kdeov/feature_alignment.py",
        "pipeline/__init__.py", "pipeline/console.py", "pipeline/stage.py",
    }  # fmt: skip


@pytest.mark.parametrize("wing", WINGS, ids=in_checkout)
def test_every_wing_has_a_readme_of_a_few_lines(wing: Path) -> None:
    assert 3 <= len((wing / "README.md").read_text(encoding="utf-8").splitlines()) <= 20


def test_dvc_sends_no_analytics() -> None:
    config = configparser.ConfigParser()
    config.read_string(
        re.sub(r"^\s+", "", (ROOT / ".dvc" / "config").read_text(encoding="utf-8"), flags=re.M)
    )
    assert config.getboolean("core", "analytics") is False
    assert config.getboolean("core", "check_update") is False


def test_importing_the_pipeline_switches_telemetry_off(run_python: Any) -> None:
    script = "import json, os, pipeline; print(json.dumps(dict(os.environ)))"
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    found = json.loads(run_python("-c", script, without=wanted).stdout)
    assert wanted.items() <= found.items()


def test_help_waits_for_no_heavy_library(run_python: Any) -> None:
    script = """
import sys
from typer.testing import CliRunner
from pipeline.cli.main import app
result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0 and "publish" in result.output, result.output
print([name for name in ("torch", "ray", "mlflow", "numpy", "clip") if name in sys.modules])
"""
    assert run_python("-c", script).stdout.splitlines() == ["[]"], sys.executable
