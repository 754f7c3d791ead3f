"""Batches one ahead: while a step computes, a thread reads the next batch and copies it to the GPU.

The copy, and what follows it in `prepare`, runs on a stream of its own, beside the kernels of the
step.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import torch

B = TypeVar("B")
T = TypeVar("T")
DEPTH = 1  # prepared batches that wait


class Side(Protocol):
    """Where batches are prepared, beside the step."""

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, this thread's work goes to the side."""

    def mark(self) -> Any:
        """A mark behind all work of the side so far."""

    def wait(self, mark: Any, item: Any) -> None:
        """Makes this thread's work wait until the side has passed a mark, behind which `item` is
        ready.
        """


class SideStream:
    """A CUDA stream beside the current one; one a device, since memory that was freed on a stream
    is used again on that stream alone.

    Args:
        device: A GPU; `cuda` is the current one of the calling thread.
    """

    def __init__(self, device: str | torch.device) -> None:
        # a new thread starts with GPU 0, so the number is kept
        self.device = torch.empty(0, device=device).device
        self.stream = _side_stream(self.device)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See `Side`."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.cuda.Event:
        """See `Side`."""
        return self.stream.record_event()

    def wait(self, mark: torch.cuda.Event, item: Any) -> None:
        """See `Side`."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(mark)
        for tensor in _tensors(item):
            if tensor.is_cuda:
                # its memory may be reused only when the step is through with it too
                tensor.record_stream(current)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def prefetched(
    batches: Iterable[B], prepare: Callable[[B], T], device: str | torch.device
) -> Iterator[T]:
    """Prepared batches. On a GPU one is always ahead; on a CPU, whose cores the step needs, each
    is read and prepared when it is asked for.

    Args:
        batches: Read in another thread, but for the first one.
        prepare: Copies a batch to the device, with `kdeov.weights.device.upload`, and computes
            there.
        device: Device of the step.
    """
    if torch.device(device).type != "cuda":
        return map(prepare, batches)
    return one_ahead(batches, prepare, SideStream(device))


def one_ahead(batches: Iterable[B], prepare: Callable[[B], T], side: Side) -> Iterator[T]:
    """Prepared batches, of which one waits while another is in preparation. An error of `batches`
    or `prepare` is raised after the batches before it; closing the iterator ends the thread.

    Args:
        batches: Read in another thread, but for the first one: there is nothing to overlap yet, and
            loader processes then are children of the calling thread.
        prepare: From a batch to what the step takes.
        side: Where it works.
    """
    source = iter(batches)
    first = next(source, None)
    free, stopped = threading.Semaphore(DEPTH), threading.Event()
    ready: SimpleQueue[tuple[Any, Any] | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            with side.active():
                batch = first
                while batch is not None and free.acquire() and not stopped.is_set():
                    item = prepare(batch)
                    ready.put((side.mark(), item))
                    batch = next(source, None)
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            ready.put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            mark, item = found
            side.wait(mark, item)
            free.release()
            yield item
    finally:
        stopped.set()
        free.release()
        thread.join()


class Download:
    """A copy of a tensor to the host, which begins when all work before it is done. Later work need
    not wait for it.

    Args:
        tensor: On any device.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host = host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.current_stream(tensor.device).record_event()
        else:
            self._host = tensor

    def result(self) -> torch.Tensor:
        """Waits for the copy, and returns it."""
        if self._done is not None:
            self._done.synchronize()
        return self._host


def _tensors(item: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested tuples and lists."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, list | tuple):
        for part in item:
            yield from _tensors(part)
