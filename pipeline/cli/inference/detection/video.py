"""Objects in the frames of a video, read and drawn with OpenCV."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

from kdeov.errors import ConfigError, DataError, StorageError
from kdeov.weights.folder import user_path
from pipeline.cli.inference.detection.detect import Options, print_header, print_objects
from pipeline.cli.inference.detection.drawing import Drawing
from pipeline.cli.inference.output import progress_on_terminal
from pipeline.console import printable
from pipeline.inference.labels import label_embeddings
from pipeline.inference.models import open_detector

SUFFIX, CODEC = ".mp4", "mp4v"
# FFmpeg takes texts for videos and opens what playlists name, so only these are allowed
ALLOWED = "protocol_whitelist;file|format_whitelist;mov,mp4,matroska,webm,avi,mpeg,mpegts"
DEFAULT_RATE = 25.0  # frames a second, where a file does not say


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: From 0 on.
        seconds: From the beginning.
        image: In RGB.
    """

    number: int
    seconds: float
    image: Image.Image


def detect_in_video(video: Path, options: Options, draw: Path | None, address: str | None) -> None:
    """Prints the objects of each frame of a video, and draws them into another one.

    Args:
        video: The file.
        options: What is done with the frames; its target is not used.
        draw: An `.mp4` file to write; None draws nothing.
        address: Of the model.

    Raises:
        KdeovError: OpenCV is not installed, the video cannot be read, there is no model with a box
            head, or the drawing cannot be written.
    """
    target = _new_file(draw) if draw is not None else None
    cv2 = _opencv()
    path = user_path(video)
    model = open_detector(address)
    classes = label_embeddings(model, options.classes, options.templates)
    print_header(options.form)
    drawing, count = _VideoDrawing(cv2, target, path) if target is not None else None, 0
    try:
        with progress_on_terminal("detect", lines=True) as advance:
            for frame in frames(cv2, path):
                regions = model.propose(frame.image)
                found = model.score(regions, classes, options.selection)
                labels = [options.classes[number] for number in found.classes.tolist()]
                if drawing is not None:
                    drawing.add(frame.image, found, labels)
                place = {"video": str(video), "frame": frame.number}
                place["seconds"] = round(frame.seconds, 3)
                print_objects(
                    place, f"{video}#{frame.number}", regions, found, labels, options.form
                )
                count += 1
                advance()
        if not count:
            raise DataError(f"{path}: no video that OpenCV reads; convert it to MP4")
        if drawing is not None:
            drawing.finish()
            typer.echo(f"drawing: {printable(str(target))}", err=True)
    finally:
        if drawing is not None:
            drawing.discard()


def frames(cv2: Any, path: Path) -> Iterator[Frame]:
    """The frames of a video; none where OpenCV cannot read it.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        number = 0
        while True:
            read, pixels = capture.read()
            if not read:
                return
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(number, seconds, Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])))
            number += 1
    finally:
        capture.release()


class _VideoDrawing:
    """A video under a temporary name, which moves to its own when it is whole."""

    def __init__(self, cv2: Any, target: Path, source: Path):
        self._cv2, self._target, self._drawing = cv2, target, Drawing("kdeov detect")
        self._partial = target.with_name(f".{uuid.uuid4().hex[:12]}.partial{SUFFIX}")
        self._writer: Any = None
        capture = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
        self._rate = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
        capture.release()

    def add(self, image: Image.Image, found: Any, labels: list[str]) -> None:
        """Draws a frame with its objects."""
        pixels = np.asarray(self._drawing.draw(image, found, labels))[..., ::-1]
        if self._writer is None:
            code = self._cv2.VideoWriter_fourcc(*CODEC)
            size = (pixels.shape[1], pixels.shape[0])
            self._writer = self._cv2.VideoWriter(str(self._partial), code, self._rate, size)
            if not self._writer.isOpened():
                raise StorageError(f"{self._target}: cannot be written; give another --draw")
        self._writer.write(np.ascontiguousarray(pixels))

    def finish(self) -> None:
        """Gives the file its name."""
        self._writer.release()
        self._partial.replace(self._target)

    def discard(self) -> None:
        """Removes what has no name yet."""
        if self._writer is not None:
            self._writer.release()
        self._partial.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """The file to draw into, which is not there yet: nothing in a video says who made it."""
    target = user_path(path)
    if target.suffix.lower() != SUFFIX:
        raise ConfigError(f"--draw {path}: give a name that ends with {SUFFIX} for a video")
    if target.exists():
        raise ConfigError(f"--draw {path} exists; give another name, or remove it")
    if not target.parent.is_dir():
        raise ConfigError(f"--draw {path}: there is no folder {target.parent}; make it")
    return target


def _opencv() -> Any:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = ALLOWED
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what fails is an error of this command
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise ConfigError("--video needs OpenCV: pip install opencv-python-headless") from error
    return cv2
