"""A logged model is no pickle, and `mlflow models serve` answers with the runtime's embeddings."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import kdeov
from kdeov.runtime.model import Model
from tests.helpers.exported import write_export
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.mlflow_servers import ServedModel
from tests.helpers.registry import Registry

pytestmark = pytest.mark.slow

ADDRESS = "models:/scenes@candidate"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "export"
    write_export(folder, boxes=True)
    return folder


@pytest.fixture(scope="module")
def registry(
    export: Path, tmp_path_factory: pytest.TempPathFactory, with_database: WithDatabase
) -> Registry:
    """A registry with one candidate."""
    registry = Registry(with_database(tmp_path_factory.mktemp("there")))
    registry.publish(export)
    return registry


@pytest.fixture(scope="module")
def logged(registry: Registry) -> Path:
    """The files of the candidate."""
    assert registry.target.file is not None
    (model,) = registry.target.file.parent.glob("artifacts/models/*/artifacts")
    return model


@pytest.fixture(scope="module")
def served(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    server = ServedModel(tmp_path_factory.mktemp("served"), ADDRESS, registry.target.uri)
    try:
        yield server
    finally:
        server.kill()


def encoded(image: Image.Image, form: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def test_a_logged_model_is_code_an_export_and_no_pickle(logged: Path, export: Path) -> None:
    own = {path.name for path in logged.iterdir() if path.is_file()}
    assert "served_model.py" in own and not [name for name in own if name.endswith(".pkl")]
    assert {path.suffix for path in logged.iterdir() if path.is_file()} <= {
        ".py", ".txt", ".yaml", ".json", "",
    }  # fmt: skip
    files = {path.name: path.read_bytes() for path in export.iterdir()}
    assert {path.name: path.read_bytes() for path in (logged / "export").iterdir()} == files


def test_the_runtime_is_the_only_requirement(logged: Path) -> None:
    lines = (logged / "requirements.txt").read_text(encoding="utf-8").split()
    assert {line.partition("==")[0] for line in lines} == {"kdeov", "mlflow"}
    assert f"kdeov=={kdeov.__version__}" in lines


def test_a_logged_model_has_a_signature_and_an_example(logged: Path) -> None:
    described = yaml.safe_load((logged / "MLmodel").read_text(encoding="utf-8"))
    columns = json.loads(described["signature"]["inputs"])
    assert [(c["name"], c["type"], c["required"]) for c in columns] == [
        ("image", "string", False), ("text", "string", False),
    ]  # fmt: skip
    assert described["flavors"]["python_function"]["model_code_path"] == "served_model.py"
    size = sum(path.stat().st_size for path in logged.rglob("*.*") if path.is_file())
    assert size <= described["model_size_bytes"] < size + 10_000


def test_an_image_in_base64_gets_the_very_embedding_of_the_runtime(
    served: ServedModel, export: Path
) -> None:
    images = [Image.effect_noise(size, 50).convert("RGB") for size in ((80, 60), (33, 97))]
    status, answer = served.post({"dataframe_records": [{"image": encoded(i)} for i in images]})
    assert status == 200
    found = np.array(answer["predictions"], np.float32)
    wanted = Model.open(export).embed_image(images)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-6


def test_texts_get_the_embeddings_of_the_runtime(served: ServedModel, export: Path) -> None:
    texts = ["a red ball", "two dogs in the snow"]
    status, answer = served.post({"inputs": {"text": texts}})
    assert status == 200
    found = np.array(answer["predictions"], np.float32)
    assert np.abs(found - Model.open(export).embed_text(texts)).max() < 1e-6


def test_images_and_texts_may_come_together(served: ServedModel, export: Path) -> None:
    image = Image.effect_noise((80, 60), 50).convert("RGB")
    rows = [{"text": "a cat"}, {"image": f"data:image/jpeg;base64,{encoded(image)}"}]
    status, answer = served.post({"dataframe_records": rows})
    assert status == 200
    model, found = Model.open(export), np.array(answer["predictions"], np.float32)
    wanted = np.concatenate([model.embed_text("a cat"), model.embed_image(image)])
    assert np.abs(found - wanted).max() < 1e-6


def test_the_example_of_a_logged_model_is_answered(served: ServedModel, logged: Path) -> None:
    text = (logged / "serving_input_example.json").read_text(encoding="utf-8")
    status, answer = served.post(json.loads(text))
    assert status == 200 and len(answer["predictions"]) == 1


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"image": "no base64!"}, "no base64"),
        ({"image": base64.b64encode(b"no image").decode()}, "not an image"),
        ({"image": encoded(Image.new("RGB", (64, 64)), "BMP")[:400]}, "get the file again"),
        ({"text": None}, "either an image or a text"),
        ({"text": "a", "image": encoded(Image.new("RGB", (8, 8)))}, "either an image or a text"),
        ({"picture": "a"}, "no column image"),
    ],
)
def test_bad_input_is_answered_with_400_and_a_line(
    served: ServedModel, row: dict[str, Any], word: str
) -> None:
    status, answer = served.post({"dataframe_records": [row]})
    assert status == 400
    assert word in answer["message"]
    assert "Traceback" not in json.dumps(answer)
