"""The application on Ray Serve: replicas on a local cluster answer as the runtime does."""

from __future__ import annotations

import asyncio
import io
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from kdeov.runtime.model import Model
from tests.helpers.serving import drawn_image, serve_command

pytestmark = pytest.mark.cluster  # a Ray of its own takes the machine

REQUESTS = 48


def test_two_replicas_answer_as_the_runtime_and_end_with_the_command(
    export: Path, index: Path, tmp_path: Path
) -> None:
    async def ask(address: str) -> list[list[float]]:
        async with httpx.AsyncClient(base_url=address, timeout=300, trust_env=False) as client:

            async def one(number: int) -> list[float]:
                files = {"image": drawn_image(number)}
                answer = await client.post("/embed", files=files)
                assert answer.status_code == 200, answer.text
                return answer.json()["embeddings"][0]

            return await asyncio.gather(*(one(number) for number in range(REQUESTS)))

    arguments = ("--model", export, "--index", index, "--port", 0, "--ray", "--replicas", "2")
    with serve_command(*arguments, cwd=tmp_path) as (address, process):
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=60)
        found = asyncio.run(ask(address))
        images = [Image.open(io.BytesIO(drawn_image(number))) for number in range(REQUESTS)]
        expected = Model.open(export).embed_image(images)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        hits = httpx.post(
            f"{address}/search", data={"text": "a red ball"}, timeout=120, trust_env=False
        )
        assert hits.status_code == 200 and len(hits.json()["hits"]) == 12
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and "Traceback" not in errors, errors
