"""The scaling plan as a page of Markdown: `kdeov scaling` prints it, `docs/scaling.md` holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from kdeov.errors import ConfigError
from pipeline.bench.scaling.estimates import Row, rows_of_data, rows_of_epoch, rows_of_preparing
from pipeline.bench.scaling.inputs import Inputs

GPUS = (64, 256, 1024)
CORES = (16, 256, 4096)  # of the machines that prepare
INTRODUCTION = """\
# Scaling plan

`kdeov scaling` prints this page; `--set INPUT=NUMBER` and `--gpus N` change its inputs. Nothing of
this size was run. Each row names its basis, and only rows of the simulated data plan are exact:
`kdeov bench cluster` goes through all segments of all streams. Latencies are left out."""
DISCUSSION = """\
64 GPUs are enough for a billion images: five hours to embed them, and an hour and 126 dollars an
epoch. Preparing them is cheap: 111 core-hours, seven hours on one machine of 16 cores, where the
network has to carry 1 GB/s in and as much out; with more cores, it is the network's speed that
counts. A killed worker loses seconds. The published rates are those of a desktop GPU and of a
network with three times the work, so they are lower bounds. The data plan supports 1,024 GPUs, but
a student this small does not need them: coupled losses would wait for the network longer than they
train, and a bucket that serves 5,500 requests a second for each prefix would need larger blocks, or
shards on local disks. Without coupled losses, ranks exchange nothing but 11 MB of gradients.
Checkpoints are cheap; on 1,024 GPUs, write one every 5,000 steps. Every image is read once an
epoch, and 13,824 of them twice to fill the last step; the plan takes 2 s and 64 MB on each rank."""


def scaling_page(inputs: Inputs, gpus: Sequence[int] = GPUS) -> str:
    """The page: results for the data, for preparing it, for an epoch, and the inputs. The
    discussion of the results is part of it for default inputs alone.

    Args:
        inputs: Inputs of the plan.
        gpus: Numbers of GPUs to compare.

    Raises:
        ConfigError: Streams or images cannot be shared by so many GPUs.
    """
    for count in gpus:
        if count < 1 or inputs.num_streams % count:
            raise ConfigError(
                f"--gpus {count}: {inputs.num_streams:.0f} streams cannot be shared by {count} "
                "GPUs; give --set num_streams=NUMBER, a multiple of the GPUs and a divisor of batch"
            )
    default = inputs == Inputs() and tuple(gpus) == GPUS
    parts = [
        INTRODUCTION,
        "## The data",
        _table(
            ["", "value", "basis"],
            ["---", "---:", "---"],
            [[row.name, short(row.values[0]), row.basis] for row in rows_of_data(inputs)],
        ),
        "## Preparing, by number of cores",
        _compared(CORES, rows_of_preparing(inputs, CORES)),
        "## An epoch, by number of GPUs",
        _compared(gpus, rows_of_epoch(inputs, gpus)),
        *([DISCUSSION] if default else []),
        "## Inputs",
        _table(
            ["input", "meaning", "value", "origin"],
            ["---", "---", "---:", "---"],
            _input_rows(inputs),
        ),
    ]
    return "\n\n".join(parts)


def _compared(counts: Sequence[int], rows: Iterable[Row]) -> str:
    """A table with a column for each number of machines."""
    return _table(
        ["", *[f"{count:,}" for count in counts], "basis"],
        ["---", *["---:"] * len(counts), "---"],
        [[row.name, *map(short, row.values), row.basis] for row in rows],
    )


def _input_rows(inputs: Inputs) -> Iterable[list[str]]:
    plain = Inputs()
    for item in fields(inputs):
        value, about = getattr(inputs, item.name), item.metadata
        origin = ": ".join(filter(None, [about["origin"], about["source"]]))
        if value != getattr(plain, item.name):
            origin = "chosen"
        yield [f"`{item.name}`", about["meaning"], short(value), origin]


def short(value: float) -> str:
    """Three significant digits; whole numbers in full."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(head: list[str], rule: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
