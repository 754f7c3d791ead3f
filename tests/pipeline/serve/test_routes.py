"""Answers over HTTP are those of the runtime, and bad input gets one line."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from kdeov.runtime.detections import Selection
from kdeov.runtime.model import Model
from pipeline.search.index import Index
from tests.helpers.serving import drawn_image

LABELS = ["a red ball", "a dog", "café au lait"]


@pytest.fixture(scope="module")
def model(export: Path) -> Model:
    return Model.open(export)


def upload(content: bytes, **fields: Any) -> dict[str, Any]:
    return {"files": {"image": ("image", content)}, "data": fields}


def test_embeddings_are_those_of_the_runtime(client: httpx.Client, model: Model) -> None:
    content = drawn_image(100)
    found = client.post("/embed", **upload(content)).json()
    expected = model.embed_image(Image.open(io.BytesIO(content)))
    np.testing.assert_allclose(found["embeddings"], expected, atol=1e-5)
    assert found["model"] == model.image_digest
    texts = client.post("/embed_text", json={"texts": LABELS}).json()["embeddings"]
    np.testing.assert_allclose(texts, model.embed_text(LABELS), atol=1e-5)


@pytest.mark.parametrize("labels", [LABELS, ", ".join(LABELS)], ids=["repeated", "commas"])
def test_classes_are_those_of_the_runtime_best_first(
    client: httpx.Client, model: Model, labels: list[str] | str
) -> None:
    content = drawn_image(101)
    found = client.post("/classify", **upload(content, labels=labels)).json()["labels"]
    templates = model.card.text.templates
    (expected,) = model.classify(Image.open(io.BytesIO(content)), LABELS, templates)
    assert {entry["label"]: pytest.approx(entry["probability"], abs=1e-5) for entry in found} == (
        dict(zip(LABELS, expected.tolist(), strict=True))
    )
    values = [entry["probability"] for entry in found]
    assert values == sorted(values, reverse=True)


def test_objects_are_those_of_the_runtime(client: httpx.Client, model: Model) -> None:
    content = drawn_image(102, (200, 150))
    found = client.post("/detect", **upload(content, labels=LABELS, min_score=0.2)).json()
    classes = model.class_embeddings(LABELS, model.card.text.templates)
    (regions,) = model.propose(Image.open(io.BytesIO(content)))
    (expected,) = model.score(regions, classes, selection=Selection(min_score=0.2))
    assert (found["width"], found["height"]) == (200, 150)
    assert found["objects"]
    np.testing.assert_allclose([o["box"] for o in found["objects"]], expected.boxes, atol=1e-3)
    assert [o["label"] for o in found["objects"]] == [LABELS[n] for n in expected.classes]


def test_a_heat_map_is_a_picture_of_the_runtimes(client: httpx.Client, model: Model) -> None:
    content = drawn_image(103)
    found = client.post("/heatmap", **upload(content, text="a dog")).json()
    classes = model.class_embeddings(["a dog"], model.card.text.templates)
    expected = model.heatmap(Image.open(io.BytesIO(content)), classes)[0, 0]
    gray = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))), np.float64)
    values = found["low"] + gray / 255 * (found["high"] - found["low"])
    np.testing.assert_allclose(values, expected, atol=0.01)


def test_hits_are_those_of_the_index(client: httpx.Client, model: Model, index: Path) -> None:
    fields = {"text": "a red ball", "minus": "a dog", "k": 4}
    found = client.post("/search", data=fields).json()["hits"]
    plus, minus = model.embed_text(["a red ball"])[0], model.embed_text(["a dog"])[0]
    query = (plus - minus) / np.linalg.norm(plus - minus)
    expected = Index.open(index).search(query, 4, background=model.background())
    assert [hit["path"] for hit in found] == [hit.path for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([h.score for h in expected], abs=1e-5)
    assert all(0 < hit["probability"] <= 1 for hit in found)
    inside = client.post("/search", data={"text": "a dog", "where": "folder=sub"}).json()["hits"]
    assert len(inside) == 6 and all(hit["path"].startswith("sub/") for hit in inside)


def test_an_image_finds_itself_and_shows_its_thumbnail(client: httpx.Client, photos: Path) -> None:
    content = (photos / "4.png").read_bytes()
    (hit,) = client.post("/search", **upload(content, k=1)).json()["hits"]
    assert hit["path"] == "4.png" and hit["score"] > 0.999
    answer = client.get(f"/{hit['image']}")
    shown = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/jpeg" and shown.size == (80, 60)


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few kB whose header names so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"", 400, "not an image"),
        (b"no image at all", 400, "not an image"),
        (drawn_image(0)[:300], 400, "unreadable"),
        (drawn_image(0, kind="jpeg")[:500], 400, "unreadable"),
        (png_of(8000, 8000), 413, "pixels"),
        (png_of(100_000, 100_000), 413, "pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 400, "not an image"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "large", "bomb", "svg", "postscript"],
)
@pytest.mark.parametrize("route", ["embed", "classify", "detect", "heatmap", "search"])
def test_what_is_no_image_gets_one_line(
    client: httpx.Client, route: str, content: bytes, status: int, word: str
) -> None:
    fields = {"labels": ["a dog"], "text": "a dog"}
    answer = client.post(f"/{route}", **upload(content, **fields))
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert word in detail and "\n" not in detail and "/" not in detail


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"labels": ",".join(f"label {n}" for n in range(100_000))}, 400),
        ({"labels": [f"label {n}" for n in range(2000)]}, 400),
        ({"labels": ",".join(f"label {n}" for n in range(1001))}, 413),
        ({"labels": "x" * 5000}, 413),
        ({"labels": " , "}, 400),
        ({"labels": ["a dog", " "]}, 400),
        ({"labels": "a dog, a dog"}, 400),
        ({"labels": ["a dog", "a\0cat"]}, 400),
        ({"labels": "a dog", "templates": "a photo"}, 400),
        ({}, 422),
    ],
    ids=["100,000", "2,000 fields", "1,001 fields", "long", "none", "empty", "twice", "no text",
         "template", "missing"],
)  # fmt: skip
def test_labels_that_cannot_be_answered_are_refused(
    client: httpx.Client, fields: dict[str, Any], status: int
) -> None:
    answer = client.post("/classify", **upload(drawn_image(0), **fields))
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.text) < 2000


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"text": "a dog", "k": 0}, 422),
        ({"text": "a dog", "k": 10**9}, 422),
        ({"text": "a dog", "where": "folder=../.."}, 400),
        ({"text": "a dog", "where": "nonsense"}, 400),
        ({"text": "a dog", "minus": "a dog"}, 400),
        ({"text": "a\0dog"}, 400),
        ({"text": "a dog", "probability": 2}, 422),
        ({"text": "a dog", "objects": "true"}, 400),
    ],
)
def test_searches_that_cannot_be_answered_are_refused(
    client: httpx.Client, fields: dict[str, Any], status: int
) -> None:
    answer = client.post("/search", data=fields or {"minus": "a dog"})
    assert answer.status_code == status, answer.text[:300]


@pytest.mark.parametrize(
    "path", ["images/../../etc/passwd", "images/-1", "images/999999", "images/..%2f..%2fx",
             "images/1.5", "app.js/../../settings.py", "page/index.html", "docs", "redoc"],
)  # fmt: skip
def test_no_path_leads_out_of_the_index(client: httpx.Client, path: str) -> None:
    assert client.get(f"/{path}").status_code in (404, 422)


def test_openapi_names_every_route(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    assert {"/embed", "/embed_text", "/classify", "/detect", "/heatmap", "/search", "/health",
            "/metrics", "/images/{row}"} == found["paths"].keys()  # fmt: skip
    body = found["components"]["schemas"]["Body_search_search_post"]["properties"]
    assert {"text", "minus", "image", "where", "k", "probability", "objects"} == body.keys()


def test_prometheus_reads_what_was_asked(client: httpx.Client) -> None:
    def count(text: str) -> float:
        (line,) = [
            line for line in text.splitlines()
            if line.startswith('kdeov_requests_total{path="/embed",status="200"}')
        ]  # fmt: skip
        return float(line.split()[-1])

    client.post("/embed", **upload(drawn_image(1)))
    before = count(client.get("/metrics").text)
    client.post("/embed", **upload(drawn_image(1)))
    text = client.get("/metrics").text
    assert count(text) == before + 1
    assert 'kdeov_batch_size_count{kind="embed"}' in text and "kdeov_request_seconds_sum" in text


def test_templates_are_prompts_with_one_place_and_not_too_many(
    client: httpx.Client, model: Model
) -> None:
    content = drawn_image(104)
    found = client.post("/classify", **upload(content, labels=LABELS, templates="openai-7"))
    (expected,) = model.classify(Image.open(io.BytesIO(content)), LABELS, "openai-7")
    assert {
        e["label"]: pytest.approx(e["probability"], abs=1e-5) for e in found.json()["labels"]
    } == (dict(zip(LABELS, expected.tolist(), strict=True)))
    many = [f"label {number}" for number in range(200)]
    answer = client.post("/classify", **upload(content, labels=many, templates="openai-80"))
    assert answer.status_code == 413 and "10000" in answer.json()["detail"]
    for wrong in ("a {:99999999999}", "{!r}", "{} and {}", "no-such-set"):
        answer = client.post("/classify", **upload(content, labels=LABELS, templates=wrong))
        assert answer.status_code == 400 and answer.json()["detail"], wrong
