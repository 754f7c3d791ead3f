"""`kdeov bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.errors import CommandGroup

app = typer.Typer(cls=CommandGroup, no_args_is_help=True)


@app.command()
def data(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write the figures to.")
    ] = None,
) -> None:
    """Measure embedding, loading, planning and training on generated images, on the CPU.

    Takes minutes. The exit status is 1 if a figure misses its bar.
    """
    from pipeline.bench.data import suite as measured
    from pipeline.bench.figures import print_figures
    from pipeline.console import setup_logging

    setup_logging()
    figures = measured.data_figures(measured.SIZES)
    if not print_figures("Data, on this machine's CPU", figures, json_file):
        raise typer.Exit(1)


@app.command()
def cluster(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write the figures to.")
    ] = None,
) -> None:
    """Compare Ray with torchrun and two ranks with one; kill a worker; plan a billion images.

    Takes minutes, on the CPU. The exit status is 1 if a figure misses its bar.
    """
    from pipeline.bench.cluster import suite as measured
    from pipeline.bench.figures import print_figures
    from pipeline.console import setup_logging

    setup_logging()
    figures = measured.cluster_figures(measured.SIZES)
    if not print_figures("A cluster, on this machine's CPU", figures, json_file):
        raise typer.Exit(1)


@app.command()
def gpu(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write the figures to.")
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Run the same on the CPU with small sizes, as a test.")
    ] = False,
) -> None:
    """Compare embedding and training on a GPU with bare loops, and count the cores that feed it.

    Takes minutes, with random weights. Needs torch and the small packages, but no Ray, DVC or
    MLflow. Without a GPU it prints the reason. The exit status is 1 if a figure misses its bar.
    """
    from pipeline.bench.figures import print_figures
    from pipeline.bench.gpu import suite as measured
    from pipeline.console import setup_logging, stdout
    from pipeline.runtime.device import missing_gpu

    setup_logging()
    reason = None if cpu else missing_gpu()
    if reason is not None:
        stdout.print(f"Skipped: {reason}.", soft_wrap=True, highlight=False)
        return
    device, sizes = ("cpu", measured.CPU_SIZES) if cpu else ("cuda", measured.SIZES)
    machine = measured.machine(device)
    figures = measured.gpu_figures(device, sizes)
    if not print_figures(f"On {machine['card']}", figures, json_file, machine):
        raise typer.Exit(1)


@app.command()
def run(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write the figures to.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(dir_okay=False, help="SVG file to draw the latencies into.")
    ] = None,
) -> None:
    """Compare the exported student with CLIP ViT-B/32 and MobileCLIP2-S0, and time the commands.

    Takes minutes, on the CPU, with random weights. The exit status is 1 if a figure misses its bar.
    """
    from pipeline.bench.figures import print_figures
    from pipeline.bench.run import suite as measured
    from pipeline.bench.run.picture import speed_picture
    from pipeline.console import setup_logging
    from pipeline.storage.files import writing

    setup_logging()
    figures = measured.run_figures(measured.SIZES)
    if figure is not None:
        with writing(figure) as file:
            file.write(speed_picture(figures, measured.SIZES))
    if not print_figures("A student in use, on this machine's CPU", figures, json_file):
        raise typer.Exit(1)


@app.command()
def search(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write the figures to.")
    ] = None,
) -> None:
    """Search a million rows exactly, and time the commands that index and search.

    Takes minutes and 2 GB of disk, with random rows. The exit status is 1 if a figure misses its
    bar.
    """
    from pipeline.bench.figures import print_figures
    from pipeline.bench.search import suite as measured
    from pipeline.console import setup_logging

    setup_logging()
    figures = measured.search_figures(measured.SIZES)
    if not print_figures("An index of images, on this machine's CPU", figures, json_file):
        raise typer.Exit(1)
