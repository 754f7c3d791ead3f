"""A server finds what `kdeov index` adds while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
from typer.testing import CliRunner

from pipeline.cli.main import app as kdeov
from pipeline.serve.app import create_app
from pipeline.serve.settings import Settings
from tests.helpers.serving import drawn_image, serving
from tests.helpers.waiting import wait_for


def test_images_that_are_indexed_later_are_found_and_a_damaged_index_stays_as_it_was(
    export: Path, tmp_path: Path
) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    (photos / "a.png").write_bytes(drawn_image(1))
    command = ["index", str(photos), "--model", str(export), "-o", str(index)]
    assert CliRunner().invoke(kdeov, command).exit_code == 0
    app = create_app(str(export), index, Settings(follow_s=0.1))
    with (
        serving(app) as address,
        httpx.Client(base_url=address, timeout=120, trust_env=False) as client,
    ):

        def paths() -> set[str]:
            hits = client.post("/search", data={"text": "a red ball"}).json()["hits"]
            return {hit["path"] for hit in hits}

        assert paths() == {"a.png"}
        (photos / "b.png").write_bytes(drawn_image(2))
        assert CliRunner().invoke(kdeov, command).exit_code == 0
        wait_for(lambda: paths() == {"a.png", "b.png"})
        (hit,) = (
            hit
            for hit in client.post("/search", data={"text": "a red ball"}).json()["hits"]
            if hit["path"] == "b.png"
        )
        assert client.get(f"/{hit['image']}").status_code == 200
        shutil.move(index / "identity.json", tmp_path)
        assert paths() == {"a.png", "b.png"}
        assert client.get("/health").json()["index"] == 2
