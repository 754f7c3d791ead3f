"""One report of the tiny run, built once, and one with 10,000 classes of any name."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import read_arrays, write_arrays
from pipeline.report.report import write_page
from pipeline.report.results import Results
from tests.helpers.results import edit_json

MANY = 10_000
HOSTILE = [
    "<script>alert(1)</script>", "\" onload=\"alert(1)", "{{ run.name }}", "$\\frac{$", "R&B",
    "日本語" * 30, "שלום עולם", "مرحبا", "🦄" * 40, "two\nlines", "x" * 4000, "</svg><img src=x>",
    "a\u202eb", "_*markdown*_ | [a](b)", "long words " * 60,
]  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """A report.

    Attributes:
        paths: Its checkout. For reading alone.
        params: Params of the run.
        seconds: Processor time that building took.
    """

    paths: Layout
    params: Params
    seconds: float

    @property
    def results(self) -> Results:
        """The results that it shows."""
        return Results.read(self.params, self.paths)

    @property
    def text(self) -> str:
        """The page."""
        return self.paths.report.read_text(encoding="utf-8")


def _reported(paths: Layout, params: Params) -> Reported:
    start = time.process_time()
    write_page(Results.read(params, paths), params, paths)
    return Reported(paths, params, time.process_time() - start)


@pytest.fixture(scope="session")
def reported(trained: tuple[Layout, Params], tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of `trained`."""
    root = tmp_path_factory.mktemp("reported") / "checkout"
    shutil.copytree(trained[0].root, root, symlinks=True)
    return _reported(Layout(root), trained[1])


@pytest.fixture(scope="session")
def many_classes(
    trained: tuple[Layout, Params], tmp_path_factory: pytest.TempPathFactory
) -> Reported:
    """A report of 10,000 classes with names of any script, and of 50,000 predictions."""
    root = tmp_path_factory.mktemp("many") / "checkout"
    shutil.copytree(trained[0].root, root, symlinks=True)
    paths = Layout(root)
    path = paths.evaluation / "zero_shot" / "predictions.npz"
    arrays, rng = read_arrays(path), np.random.default_rng(0)
    size = 5 * MANY
    labels = np.arange(size) % MANY
    # the classes of hostile names are those that the student loses
    student = np.where(rng.random(size) < 0.7, labels, rng.integers(MANY, size=size))
    student = np.where(labels < len(HOSTILE), (labels + 1) % len(HOSTILE), student)
    confidence = rng.random(size)
    write_arrays(
        path,
        **arrays
        | {
            "names": [*HOSTILE, *(f"class {n}" for n in range(len(HOSTILE), MANY))],
            "images": np.arange(size) % len(arrays["images"]),
            "labels": labels,
            "student": student,
            "teacher": labels,
            "student_confidence": confidence,
            "teacher_confidence": confidence,
            "weights": rng.normal(size=(MANY, arrays["weights"].shape[1])).astype(np.float32),
        },
    )

    def larger(values: dict[str, Any]) -> None:
        values["scenes"]["classes"] = MANY

    edit_json(paths.metrics / "zero_shot.json", larger)
    edit_json(
        paths.images / "dataset.json",
        lambda v: v.update(
            near_duplicates={"test in train": {"images": 1, "examples": [HOSTILE[:2]]}}
        ),
    )
    return _reported(paths, trained[1])


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots of pages are kept."""
    return tmp_path_factory.mktemp("screenshots")
