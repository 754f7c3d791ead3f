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
from tests.helpers.closure import UNLISTED, closure

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kdeov", "pipeline", "stages")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


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
        f"stages/{name}.py", f"pipeline/evaluation/{name}.py", "kdeov/export.py",
        "kdeov/training/optim.py",
    }  # fmt: skip


def test_packages_outside_of_listed_folders_hold_no_code() -> None:
    for path in {p for name in STAGES for p in closure(ROOT / "stages" / f"{name}.py")}:
        if path.endswith("/__init__.py") and not any(
            path.startswith(f"{dep}/") for name in STAGES for dep in code_deps(name)
        ):
            assert (ROOT / path).read_text().strip() == "", path


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


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_grows_beyond_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_dvc_sends_no_analytics() -> None:
    config = configparser.ConfigParser()
    config.read_string(re.sub(r"^\s+", "", (ROOT / ".dvc" / "config").read_text(), flags=re.M))
    assert config.getboolean("core", "analytics") is False
    assert config.getboolean("core", "check_update") is False


def test_importing_the_pipeline_switches_telemetry_off(run_python: Any) -> None:
    script = "import json, os, pipeline; print(json.dumps(dict(os.environ)))"
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
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
