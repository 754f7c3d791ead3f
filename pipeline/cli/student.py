"""The commands that run a student on images, and the one that exports it: their arguments. What
they do is imported when they run, so that `kdeov --help` stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Images = Annotated[
    list[str], typer.Argument(help="Files, folders, globs; - for a list on standard input.")
]
ModelAddress = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="An export folder, a student folder or a model of MLflow; out/export by default.",
    ),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Use the INT8 file of the export.")]
Templates = Annotated[
    list[str] | None,
    typer.Option(help="A prompt with {} for the label; may be repeated. Or the name of one set."),
]


def classify(
    images: Images,
    labels: Annotated[
        str | None, typer.Option(help='Labels, separated by commas: "cat, dog".')
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with a label a line.")
    ] = None,
    templates: Templates = None,
    top: Annotated[int, typer.Option(min=1, help="Labels shown for an image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table.")] = False,
    model: ModelAddress = None,
    int8: Int8 = False,
) -> None:
    """Classify images by any labels.

    The exit status is 2 if some images could not be read; the others are answered.
    """
    from pipeline.cli.inference.classify import classify_images
    from pipeline.cli.inference.output import Format
    from pipeline.inference.inputs import image_paths
    from pipeline.inference.labels import chosen_templates, given_labels

    form = Format.of(as_json, as_csv)
    names = given_labels(labels, labels_file)
    prompts = chosen_templates(templates)
    classify_images(image_paths(images), names, prompts, top, form, model, int8)


def locate(
    image: Annotated[Path, typer.Argument(help="The image.")],
    text: Annotated[str, typer.Option(help="What to locate, such as a red bicycle.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The PNG to write; IMAGE.heatmap.png in this folder by default."
        ),
    ] = None,
    templates: Templates = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    model: ModelAddress = None,
) -> None:
    """Draw where in an image a text fits best, and say it in words.

    The map compares places of one image with each other. It has a best place also for what the
    image does not show, with a lower cosine.
    """
    from pipeline.cli.inference.locate import locate_text
    from pipeline.inference.labels import chosen_templates

    target = output if output is not None else Path(f"{image.name}.heatmap.png")
    locate_text(image, text, target, chosen_templates(templates), as_json, model)


def detect(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs; - for a list on standard input."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help='Classes, separated by commas: "cat, red ball".')
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with a class a line; thousands are fine.")
    ] = None,
    templates: Templates = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of an object.")
    ] = 0.25,
    top: Annotated[int, typer.Option(min=1, help="Most objects of an image.")] = 100,
    one_class: Annotated[
        bool, typer.Option("--one-class", help="Show a box with its best class alone.")
    ] = False,
    draw: Annotated[
        Path | None,
        typer.Option(help="A PNG for one image, a folder for IMAGE.boxes.png, an MP4 for --video."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A video, in place of images; needs OpenCV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table.")] = False,
    model: ModelAddress = None,
) -> None:
    """Find objects of any classes in images, with boxes in pixels: left, top, right, bottom.

    A score says how likely a box holds an object of a class; it does not depend on the other
    classes. The exit status is 2 if some images could not be read; the others are answered.
    """
    from kdeov.errors import ConfigError
    from kdeov.runtime.detections import Selection
    from pipeline.cli.inference.detection.detect import Options, detect_objects
    from pipeline.cli.inference.detection.target import DrawTarget
    from pipeline.cli.inference.output import Format
    from pipeline.inference.inputs import image_paths
    from pipeline.inference.labels import chosen_templates, given_labels

    form = Format.of(as_json, as_csv)
    names = given_labels(classes, classes_file, "--classes", "class")
    selection = Selection(min_score, max_detections=top, one_class=one_class)
    prompts = chosen_templates(templates)
    if video is not None:
        from pipeline.cli.inference.detection.video import detect_in_video

        if images:
            raise ConfigError(f"--video {video} and images exclude each other; give one")
        detect_in_video(video, Options(names, prompts, selection, form, None), draw, model)
        return
    target = DrawTarget(draw) if draw is not None else None
    options = Options(names, prompts, selection, form, target)
    detect_objects(image_paths(images or []), options, model)


def embed(
    images: Images,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .npy, with a list of images beside it, or .parquet.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that this command did not write.")
    ] = False,
    model: ModelAddress = None,
    int8: Int8 = False,
) -> None:
    """Embed images into one file, a row an image.

    A run that was stopped goes on, and a second one embeds new and changed images alone. The exit
    status is 2 if some images could not be read; the others have rows.
    """
    from pipeline.cli.inference.embed import embed_images
    from pipeline.inference.inputs import image_paths

    embed_images(image_paths(images), output, force, model, int8)


def export(
    student: Annotated[Path, typer.Argument(help="A folder that KDEOVModel.save wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Files, folders or globs of images like those it will see, which calibrate the "
            "INT8 file, and with which searches compare; may be repeated. Without them there is "
            "neither."
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the student's box head, such as out/boxes: writes detect.onnx too."
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            help="Files for devices too, separated by commas: openvino, coreml, litert, executorch."
        ),
    ] = "",
) -> None:
    """Export a saved student: ONNX, INT8, torch.export, its text side, boxes and a card.

    In a checkout, `dvc repro export` does it for the student of the run.
    """
    from pipeline.cli.inference.export import export_student

    export_student(student, output, images or [], to, boxes)


def add_commands(app: typer.Typer) -> None:
    """Adds `classify`, `locate`, `detect`, `embed` and `export`."""
    for command in (classify, locate, detect, embed, export):
        app.command()(command)
