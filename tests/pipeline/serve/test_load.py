"""Many clients at once, and a model that is replaced meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline.serve.app import create_app
from pipeline.serve.settings import Settings
from pipeline.tracking.registry import resolve
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.registry import NAME, Registry, another_export
from tests.helpers.serving import drawn_image, serving

CLIENTS, ROUNDS = 64, 4


async def embed(client: httpx.AsyncClient, number: int) -> httpx.Response:
    files = {"image": drawn_image(number, (120, 90))}
    return await client.post("/embed", files=files)


def test_64_clients_get_the_answers_that_each_would_get_alone(
    address: str, client: httpx.Client
) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> list[list[float]]:
        rows = []
        for _ in range(ROUNDS):
            answer = await embed(client, number)
            assert answer.status_code == 200, answer.text
            rows += answer.json()["embeddings"]
        return rows

    async def many() -> list[list[list[float]]]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=address, timeout=300, limits=limits, trust_env=False
        ) as shared:
            return await asyncio.gather(*(one(shared, number) for number in range(CLIENTS)))

    together = np.asarray(asyncio.run(many()))
    alone = np.asarray([
        client.post("/embed", files={"image": drawn_image(number, (120, 90))}).json()["embeddings"]
        for number in range(CLIENTS)
    ])  # fmt: skip
    assert together.shape == (CLIENTS, ROUNDS, alone.shape[-1])
    np.testing.assert_allclose(together, np.broadcast_to(alone, together.shape), atol=1e-5)
    sizes = [
        line for line in client.get("/metrics").text.splitlines()
        if line.startswith('kdeov_batch_size_bucket{kind="embed",le="1.0"}')
    ]  # fmt: skip
    alone_batches = float(sizes[0].split()[-1])
    assert alone_batches < CLIENTS * (ROUNDS + 1)  # some came together


@pytest.mark.slow
def test_a_champion_that_changes_under_load_drops_no_request(
    export: Path, tmp_path: Path, with_database: WithDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = with_database(tmp_path / "there")
    registry = Registry(target)
    versions = [
        registry.publish(another_export(export, tmp_path / f"e{n}", f"number {n}")).version
        for n in (1, 2)
    ]
    client = registry.client
    client.set_registered_model_alias(NAME, "champion", str(versions[0]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    monkeypatch.chdir(tmp_path)
    address = f"models:/{NAME}@champion"
    app = create_app(address, settings=Settings(follow_s=0.2), resolve=resolve)
    seen: list[str] = []

    async def ask_until_swapped(base: str) -> int:
        count = 0
        async with httpx.AsyncClient(base_url=base, timeout=300, trust_env=False) as shared:

            async def keep_asking(number: int) -> None:
                nonlocal count
                while len(set(seen)) < 2 or seen.count(seen[-1]) < 5:
                    answer = await embed(shared, number)
                    assert answer.status_code == 200, answer.text
                    count += 1

            async def watch() -> None:
                swapped = False
                async with asyncio.timeout(600):
                    while len(set(seen)) < 2 or seen.count(seen[-1]) < 5:
                        answer = await shared.get("/health")
                        seen.append(answer.json()["address"])
                        if not swapped and len(seen) >= 5:
                            swapped = True
                            await asyncio.to_thread(
                                client.set_registered_model_alias,
                                NAME,
                                "champion",
                                str(versions[1]),
                            )
                        await asyncio.sleep(0.1)

            await asyncio.gather(watch(), *(keep_asking(number) for number in range(8)))
        return count

    with serving(app) as base:
        assert asyncio.run(ask_until_swapped(base)) > 10
    assert [*dict.fromkeys(seen)] == [f"models:/{NAME}/{version}" for version in versions]
