"""`kdeov detect --video`: the objects of each frame, printed and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from kdeov import Model
from kdeov.runtime.detections import Selection

cv2 = pytest.importorskip("cv2")

FRAMES, RATE = 4, 5.0
ARGUMENTS = ("--classes", "a cat, a dog", "--min-score", 0.4, "--top", 3)

Command = Callable[..., Result]


@pytest.fixture
def clip(here: Path) -> Path:
    """A video of four different frames."""
    generator = np.random.default_rng(0)
    writer = cv2.VideoWriter(
        str(here / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (128, 96)
    )
    for _ in range(FRAMES):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        writer.write(np.asarray(coarse.resize((128, 96), Image.Resampling.BICUBIC)))
    writer.release()
    return here / "clip.mp4"


def frames_of(path: Path) -> list[np.ndarray]:
    """RGB arrays."""
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read() for _ in range(FRAMES + 1)]
    assert [read for read, _ in frames] == [True] * FRAMES + [False]
    return [np.ascontiguousarray(pixels[..., ::-1]) for _, pixels in frames[:FRAMES]]


def test_each_frame_has_the_objects_of_its_image(kdeov: Command, here: Path, clip: Path) -> None:
    result = kdeov("detect", "--video", "clip.mp4", *ARGUMENTS, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    assert [row["seconds"] for row in rows] == pytest.approx([0, 0.2, 0.4, 0.6])
    wanted = Model.open(here / "out" / "export").detect(
        frames_of(clip), ["a cat", "a dog"], selection=Selection(0.4, max_detections=3)
    )
    assert sum(len(one.scores) for one in wanted) > FRAMES
    for row, one in zip(rows, wanted, strict=True):
        assert row["size"] == [128, 96]
        assert [x["label"] for x in row["objects"]] == one.labels
        assert [x["score"] for x in row["objects"]] == pytest.approx(one.scores, abs=1e-5)


def test_the_drawing_is_a_video_of_as_many_frames(kdeov: Command, here: Path, clip: Path) -> None:
    arguments = ("detect", "--video", clip, *ARGUMENTS, "--draw", "drawn.mp4")
    result = kdeov(*arguments)
    assert result.exit_code == 0 and result.stderr == "drawing: drawn.mp4\n"
    drawn = frames_of(here / "drawn.mp4")
    assert [frame.shape for frame in drawn] == [(384, 512, 3)] * FRAMES
    assert list(here.glob(".*")) == []
    before = (here / "drawn.mp4").read_bytes()
    again = kdeov(*arguments)  # nothing says that the file is this command's
    assert again.exit_code == 1 and "drawn.mp4 exists" in again.stderr
    assert (here / "drawn.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video", "absent.mp4"], ["absent.mp4"]),
        (["--video", "photos"], ["photos"]),
        (["--video", "text.mp4"], ["text.mp4", "no video"]),
        (["--video", "list.mp4"], ["list.mp4", "no video"]),
        (["--video", "clip.mp4", "photos"], ["--video", "images"]),
        (["--video", "clip.mp4", "--draw", "drawn"], ["drawn", ".mp4"]),
        (["--video", "clip.mp4", "--draw", "absent/a.mp4"], ["absent"]),
        ([], ["no image"]),
    ],
)
def test_what_is_no_video_is_named_in_one_line_and_nothing_is_written(
    kdeov: Command, here: Path, clip: Path, arguments: list[str], words: list[str]
) -> None:
    (here / "text.mp4").write_text("a text\n" * 99, encoding="utf-8")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n"
    (here / "list.mp4").write_text(playlist, encoding="utf-8")  # leads to another file
    before = sorted(here.rglob("*"))
    result = kdeov("detect", *arguments, "--classes", "a cat")
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kdeov detect: ") and all(word in line for word in words), line
    assert sorted(here.rglob("*")) == before
