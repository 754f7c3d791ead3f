"""The rules by which global batch, micro-batches, streams and workers must divide."""

from __future__ import annotations

import math

from kdeov.errors import ConfigError


def shared_unit(global_batch_size: int, num_streams: int, micro_batch_size: int) -> int:
    """The smallest part of a step that a worker can take, in images: whole micro-batches of whole
    streams. The share of every worker is a multiple of it.
    """
    return math.lcm(global_batch_size // num_streams, micro_batch_size)


def sharing_problem(
    global_batch_size: int,
    num_streams: int,
    micro_batch_size: int = 1,
    workers: int = 1,
    section: str = "distill",
) -> str | None:
    """The first broken rule, as a sentence that follows the section; None where all rules hold."""
    divisors = {"num_streams": num_streams, "micro_batch_size": micro_batch_size}
    for key, value in divisors.items():
        if global_batch_size % value:
            return (
                f"global_batch_size = {global_batch_size} is no multiple of {section}.{key} = "
                f"{value}"
            )
    unit = shared_unit(global_batch_size, num_streams, micro_batch_size)
    if global_batch_size // unit < workers:
        return (
            f"global_batch_size = {global_batch_size} has {global_batch_size // unit} parts of "
            f"{unit} images (whole micro-batches of {micro_batch_size}, whole streams of "
            f"{global_batch_size // num_streams}), too few for {workers} workers; lower "
            f"{section}.micro_batch_size or cluster.num_workers, or raise {section}.num_streams or "
            f"{section}.global_batch_size"
        )
    return None


def check_sharing(
    global_batch_size: int,
    num_streams: int,
    micro_batch_size: int = 1,
    workers: int = 1,
    section: str = "distill",
) -> None:
    """Checks that workers can share a step.

    Raises:
        ConfigError: A rule is broken; names the keys and their values.
    """
    problem = sharing_problem(global_batch_size, num_streams, micro_batch_size, workers, section)
    if problem is not None:
        raise ConfigError(f"{section}.{problem}")
