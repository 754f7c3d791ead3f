"""Processes of a user: the start of the runtime, `kdeov classify`, `kdeov embed` of a folder."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from kdeov.runtime.card import IMAGE
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import IMAGE as PHOTOGRAPH
from pipeline.bench.fixtures import photographs
from pipeline.bench.processes import python_output
from pipeline.bench.run.towers import LABELS
from pipeline.bench.sizes import RunSizes
from pipeline.evaluation.shared.timing import interleaved, median_ratio

KDEOV = "from pipeline.cli.main import app; app()"
RUNTIME = """
import time
start = time.perf_counter()
import sys
from kdeov.runtime.model import Model
Model.open(sys.argv[1]).embed_image(sys.argv[2])
print(time.perf_counter() - start)
"""
BARE = str(Path(__file__).with_name("bare_embed.py"))


def command_figures(folder: Path, export: Path, sizes: RunSizes) -> list[Figure]:
    """Measures `runtime_start_s`, `classify_s` and `embed_share`.

    Args:
        folder: Folder for images, embeddings and cached labels.
        export: An export of the student.
        sizes: Sizes of the measurements.
    """
    images = folder / "images"
    images.mkdir(parents=True)
    for number, jpeg in enumerate(islice(photographs(), sizes.embed_images)):
        (images / f"{number:05d}.jpg").write_bytes(jpeg)
    one = str(next(images.iterdir()))
    run = partial(python_output, {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")})
    starts = [float(run("-c", RUNTIME, str(export), one)) for _ in range(sizes.starts)]
    labels = ("--labels", ", ".join(LABELS), "--model", str(export))
    classify = interleaved(  # the first call caches the labels and is not counted
        {"classify": lambda: run("-c", KDEOV, "classify", one, *labels)}, sizes.starts
    )
    embed = interleaved(
        {
            "command": _embed_command(run, images, folder / "command.npy", export),
            "bare": lambda: run(
                BARE, str(export / IMAGE), str(images), str(sizes.image_size),
                str(folder / "bare.npy"),
            ),
        },
        sizes.embed_repeats,
    )  # fmt: skip
    rate = sizes.embed_images / statistics.median(embed["command"])
    width, height = PHOTOGRAPH
    return [
        Figure(
            "runtime_start_s",
            statistics.median(starts),
            0.4,
            "first embedding after Python's start",
            at_most=True,
        ),
        Figure(
            "classify_s",
            statistics.median(classify["classify"]),
            1.0,
            "one image, cached labels, whole process",
            at_most=True,
        ),
        Figure(
            "embed_share",
            median_ratio(embed["bare"], embed["command"]),
            0.85,
            f"of a bare loop; {rate:.0f} JPEGs/s of {width} x {height}, with start",
        ),
    ]


def _embed_command(
    run: Callable[..., str], images: Path, output: Path, export: Path
) -> Callable[[], object]:
    def embed() -> object:
        for path in output.parent.glob(f"{output.stem}.npy*"):
            path.unlink()  # else all embeddings are there already
        return run("-c", KDEOV, "embed", str(images), "-o", str(output), "--model", str(export))

    return embed
