"""The registry of a real MLflow server: published, promoted, followed, downloaded and served."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.inference.models import open_model
from pipeline.report.registry.promote import promote
from pipeline.tracking.registry import resolve
from pipeline.tracking.target import TrackingTarget
from tests.helpers.exported import write_export
from tests.helpers.mlflow_servers import MlflowServer, ServedModel
from tests.helpers.registry import Registry, another_export, score

pytestmark = pytest.mark.slow

NAME, TOP1 = "students", "zeroshot/top1"
CHAMPION = f"models:/{NAME}@champion"


def test_champion_moves_on_a_server_and_its_followers_see_it(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    registry = Registry(TrackingTarget(mlflow_server.uri, "registry", None))
    write_export(tmp_path / "first", boxes=True)
    second = another_export(tmp_path / "first", tmp_path / "second", "another")
    for number, export in (("1", tmp_path / "first"), ("2", second)):
        registry.publish(export, {TOP1: score(0.9)}, NAME)
        registry.publish(export, {TOP1: score(0.9)}, NAME)
        assert registry.aliases(NAME)["candidate"] == number
        assert promote(registry.target.uri, NAME).version == number
        assert resolve(CHAMPION) == f"models:/{NAME}/{number}"

    image = Image.effect_noise((80, 60), 50).convert("RGB")
    image.save(tmp_path / "noise.png")
    model = open_model(CHAMPION)
    wanted = model.embed_pixels(model.preprocess(tmp_path / "noise.png")[None])[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    server = ServedModel(tmp_path, CHAMPION, mlflow_server.uri)
    try:
        row = {"image": base64.b64encode(file.getvalue()).decode()}
        status, answer = server.post({"dataframe_records": [row]})
    finally:
        server.kill()
    assert status == 200
    assert np.abs(np.array(answer["predictions"][0], np.float32) - wanted).max() < 1e-6
    assert not (tmp_path / "mlruns").exists()
