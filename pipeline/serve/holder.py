"""The model of a server, and its replacement while requests go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from kdeov.errors import KdeovError
from pipeline.serve.metrics import Metrics
from pipeline.serve.served import ServedModel
from pipeline.serve.settings import Settings

logger = logging.getLogger(__name__)

ALIAS = "@"  # in an address of MLflow's registry that may come to mean another version


class ModelHolder:
    """The model that answers.

    Args:
        address: Of the model; an alias of MLflow's registry, `models:/NAME@ALIAS`, is followed.
        settings: Limits.
        metrics: Counts batches and swaps.
        resolve: From an address to that of the version which it means now.
        accept: Called with a model before it answers; raises a `KdeovError` if it cannot.
    """

    def __init__(
        self,
        address: str | None,
        settings: Settings,
        metrics: Metrics,
        resolve: Callable[[str], str],
        accept: Callable[[ServedModel], object] = lambda _: None,
    ) -> None:
        self._address, self._settings, self._metrics = address, settings, metrics
        self._resolve, self._accept = resolve, accept
        self._follows = address is not None and address.startswith("models:") and ALIAS in address
        self._task: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._shown = self._resolved()  # the version that answers
        self.current = self._open(self._shown)
        metrics.model.labels(self.current.model.image_digest).set(1)

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[ServedModel]:
        """The model, for one request."""
        served = self.current
        served.active += 1
        try:
            yield served
        finally:
            served.active -= 1

    def start(self) -> None:
        """Begins to follow the alias."""
        if self._follows:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Ends following, and the model."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*self._retired)
        await self.current.close()

    def _resolved(self) -> str | None:
        return self._resolve(self._address) if self._follows and self._address else self._address

    def _open(self, address: str | None) -> ServedModel:
        served = ServedModel.open(
            address,
            self._settings,
            lambda kind, size: self._metrics.batches.labels(kind).observe(size),
        )
        self._accept(served)
        return served

    async def _follow(self) -> None:
        complained = ""
        while True:
            await asyncio.sleep(self._settings.follow_s)
            try:
                address = await asyncio.to_thread(self._resolved)
                if address == self._shown:
                    complained = ""
                    continue
                served = await asyncio.to_thread(self._open, address)
            except KdeovError as error:
                if str(error) != complained:
                    complained = str(error)
                    self._metrics.swaps.labels("failed").inc()
                    logger.warning("%s stays: %s", self.current.address, error)
                continue
            logger.info("%s answers in place of %s", served.address, self.current.address)
            before, self.current, self._shown = self.current, served, address
            self._metrics.swaps.labels("done").inc()
            self._metrics.model.clear()
            self._metrics.model.labels(served.model.image_digest).set(1)
            task = asyncio.create_task(_retire(before))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)


async def _retire(served: ServedModel) -> None:
    while served.active:
        await asyncio.sleep(0.1)
    await served.close()
