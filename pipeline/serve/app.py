"""The application: a student and an index over HTTP (FastAPI)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from kdeov.errors import KdeovError, StorageError
from pipeline.search.identity import IndexIdentity, require_same_model
from pipeline.serve.guard import Guard
from pipeline.serve.holder import ModelHolder
from pipeline.serve.metrics import Metrics
from pipeline.serve.routes.answers import Health
from pipeline.serve.routes.images import TooLargeError
from pipeline.serve.routes.index import add_search_routes
from pipeline.serve.routes.model import add_model_routes
from pipeline.serve.served import ServedModel
from pipeline.serve.served_index import ServedIndex
from pipeline.serve.settings import Settings

THREADS = (os.cpu_count() or 1) + 1  # one more, as a model that is opened takes one for seconds
PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}


def latest_version(address: str) -> str:
    """The version that an address of MLflow's registry means now."""
    from pipeline.tracking.registry import resolve

    return resolve(address)


def create_app(
    model: str | None,
    index: str | Path | None = None,
    settings: Settings | None = None,
    resolve: Callable[[str], str] = latest_version,
) -> FastAPI:
    """Opens a model and an index, and makes the application that serves them.

    Args:
        model: Address of an export (see `pipeline.inference.models.open_model`). An alias of
            MLflow's registry, `models:/NAME@ALIAS`, is followed to whatever it comes to mean.
        index: What `kdeov index` made with this model; None serves no search.
        settings: Limits.
        resolve: See `ModelHolder`.

    Raises:
        KdeovError: There is no such model or index, one is damaged, or the index is of another
            model.
    """
    settings, metrics = settings or Settings(), Metrics()

    def accept_index(identity: IndexIdentity) -> None:
        require_same_model(identity, holder.current.model, where=str(index))

    opened = None
    if index is not None:
        opened = ServedIndex(Path(index), settings.follow_s, accept_index)

    def accept(served: ServedModel) -> None:
        if opened is not None:
            require_same_model(opened.current().identity, served.model, where=str(index))

    holder = ModelHolder(model, settings, metrics, resolve, accept)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # decoded images take memory: no more at a time than cores can work on
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "decode"))
        holder.start()
        yield
        await holder.close()

    app = FastAPI(
        title="KDEOV",
        summary="A student of CLIP: embeds, classifies, detects and searches.",
        lifespan=lifespan,
        docs_url=None,  # both would load scripts of another host
        redoc_url=None,
    )
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    app.add_exception_handler(KdeovError, _answer_error)
    add_model_routes(app, holder, settings)
    add_search_routes(app, holder, opened, settings)
    for route, name in FILES.items():
        _add_file(app, route, PAGE / name)

    @app.get("/health", summary="Whether the server answers, and with which model")
    async def health() -> Health:
        served = holder.current
        return Health(
            status="ok",
            name=served.model.name,
            model=served.model.image_digest,
            address=served.address,
            texts=served.model.has_tower,
            boxes=served.boxes,
            index=len(opened.current()) if opened is not None else None,
            token=settings.token is not None,
        )

    @app.get("/metrics", summary="Figures for Prometheus")
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_file(app: FastAPI, route: str, path: Path) -> None:
    @app.get(route, include_in_schema=False)
    async def file() -> FileResponse:
        return FileResponse(path, headers={"cache-control": "no-cache"})


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, TooLargeError):
        status = 413
    else:
        status = 500 if isinstance(error, StorageError) else 400
    return JSONResponse({"detail": " ".join(str(error).splitlines())}, status)
