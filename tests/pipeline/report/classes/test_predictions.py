"""Files of another version, run or hand are refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import read_arrays, write_arrays
from pipeline.report.classes.predictions import FILE, Predictions
from pipeline.report.page.classes_part import classes_part
from pipeline.report.page.gallery import Gallery

pytestmark = pytest.mark.slow  # the first of these tests trains


def test_predictions_of_another_version_or_run_name_the_stage_to_run(
    trained: tuple[Layout, Params], tmp_path: Path, complains: Any
) -> None:
    arrays = read_arrays(trained[0].evaluation / "zero_shot" / FILE)
    fingerprint = str(arrays["fingerprint"])
    path = tmp_path / "zero_shot" / FILE
    with complains(path.with_suffix(".json"), "zero_shot"):
        Predictions.read(tmp_path, fingerprint)
    write_arrays(path, **arrays)
    assert Predictions.read(tmp_path, fingerprint).models == ["teacher", "student"]
    with complains(path, "of the run", "dvc repro"):
        Predictions.read(tmp_path, "another")
    del arrays["student_confidence"]
    write_arrays(path, **arrays)
    with complains(path, "student_confidence", "dvc repro -f zero_shot"):
        Predictions.read(tmp_path, fingerprint)


def test_metrics_without_calibration_name_the_stage_to_run(reported: Any, complains: Any) -> None:
    results = reported.results
    found = Predictions.read(reported.paths.evaluation, results.run.fingerprint)
    old = {key: value for key, value in results.zero_shot.items() if key != "calibration"}
    with complains("zero_shot.json", "dvc repro zero_shot"):
        classes_part(found, old, Gallery(reported.params, reported.paths))
