"""Processes of a user: `kdeov index` of new and of known images, and `kdeov search`."""

from __future__ import annotations

import os
import shutil
import statistics
from functools import partial
from itertools import islice
from pathlib import Path

from kdeov.runtime.card import IMAGE
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs
from pipeline.bench.processes import python_output
from pipeline.bench.run.towers import LABELS
from pipeline.bench.sizes import SearchSizes
from pipeline.evaluation.shared.timing import interleaved, median_ratio

KDEOV = "from pipeline.cli.main import app; app()"
BARE = str(Path(__file__).parents[1] / "run" / "bare_embed.py")
TEXT = f"a photo of a {LABELS[0]}."  # that the random student's table has


def command_figures(folder: Path, export: Path, sizes: SearchSizes) -> list[Figure]:
    """Measures `index_share`, `index_again_s` and `search_s`.

    Args:
        folder: Folder for images and indexes.
        export: An export of the student.
        sizes: Sizes of the measurements.
    """
    run = partial(python_output, {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")})
    new, many = folder / "new", folder / "many"
    _write_images(new, sizes.images)
    _write_images(many, sizes.known_images)
    options = ("--model", str(export))

    def index_new() -> None:
        shutil.rmtree(folder / "index", ignore_errors=True)
        run("-c", KDEOV, "index", str(new), "-o", str(folder / "index"), *options)

    def bare() -> None:
        run(BARE, str(export / IMAGE), str(new), str(sizes.image_size), str(folder / "bare.npy"))

    again = ("-c", KDEOV, "index", str(many), "-o", str(folder / "known"), *options)
    search = ("-c", KDEOV, "search", TEXT, "-i", str(folder / "known"), *options)
    indexed = interleaved({"command": index_new, "bare": bare}, sizes.repeats)
    known = interleaved({"again": lambda: run(*again)}, sizes.repeats)
    searched = interleaved({"search": lambda: run(*search)}, sizes.starts)
    rate = sizes.images / statistics.median(indexed["command"])
    return [
        Figure(
            "index_share",
            median_ratio(indexed["bare"], indexed["command"]),
            0.85,
            f"of a bare loop; {rate:.0f} JPEGs/s, with start",
        ),
        Figure(
            "index_again_s",
            statistics.median(known["again"]),
            2.0,
            f"{sizes.known_images:,} known files, whole process",
            at_most=True,
        ),
        Figure(
            "search_s",
            statistics.median(searched["search"]),
            0.7,
            f"of {sizes.known_images:,} images, whole process",
            at_most=True,
        ),
    ]


def _write_images(folder: Path, count: int) -> None:
    """Writes JPEGs, each with other bytes: equal ones would share one row."""
    folder.mkdir()
    for number, jpeg in enumerate(islice(photographs(), count)):
        (folder / f"{number:06d}.jpg").write_bytes(jpeg + number.to_bytes(4, "big"))
