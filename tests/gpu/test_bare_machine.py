"""Tests and bench of GPUs run with torch and the small packages alone. The proof runs on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.conftest import VARIABLE
from tests.helpers import ROOT

ABSENT = (
    "boto3", "dvc", "faiss", "fastapi", "mlflow", "moto", "onnx", "onnxruntime", "onnxscript",
    "prometheus_client", "pyarrow", "ray", "s3fs", "sklearn", "transformers", "uvicorn",
)  # fmt: skip
BARE = f"""
import sys
from importlib.machinery import PathFinder


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {ABSENT!r}:
            return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""
TIMEOUT_S = 900


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of Python processes, and of their children, that lack these packages."""
    (tmp_path / "sitecustomize.py").write_text(BARE, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: "cpu", "OMP_NUM_THREADS": "1"}
    absent = subprocess.run(
        [sys.executable, "-c", "import ray"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert "No module named 'ray'" in absent.stderr
    return environment


def run(bare: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=bare, timeout=TIMEOUT_S,
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is the bare machine")
def test_these_tests_run_without_ray_dvc_and_mlflow(bare: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = run(bare, "-m", "pytest", "-q", "tests/gpu", f"--junitxml={report}")
    assert done.returncode == 0, done.stdout[-3000:]
    text = report.read_text(encoding="utf-8")
    for name in ("two_ranks_take", "learns_a_batch", "embeddings_of_a_cpu", "bytes_of_a_cpu"):
        assert name in text


@pytest.mark.slow
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is the bare machine")
def test_the_bench_starts_without_ray_dvc_and_mlflow(bare: dict[str, str], tmp_path: Path) -> None:
    """The module whole; that it measures is a test of the bench's own."""
    script = (
        "import dataclasses, sys\n"
        "from pipeline.bench.gpu import suite\n"
        "from pipeline.cli.main import app\n"
        "suite.CPU_SIZES = dataclasses.replace(suite.CPU_SIZES, compile=False)\n"
        f"app(['bench', 'gpu', '--cpu', '--json', {str(tmp_path / 'figures.json')!r}])\n"
    )
    done = run(bare, "-c", script)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert rows.pop("machine")["torch"]
    assert {"step_share", "loader_cores", "embedding_share"} < rows.keys()
    assert all(row["value"] > 0 for row in rows.values())
