"""A heat map drawn over its image, as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from kdeov.data.images import to_rgb
from kdeov.errors import ConfigError
from pipeline.cli.inference.place import Place, centered_square
from pipeline.storage.files import writing

MIN_RANGE = 0.1  # cosines between the first and the last color; a flat map stays of one color
SOFTWARE = "kdeov locate"  # marks a PNG of this command, which it may replace
# of the colors between: dark blue, blue, green, yellow, red (low to high)
COLORS = np.array(
    [[20, 20, 90], [40, 90, 220], [40, 190, 120], [250, 220, 60], [220, 40, 30]], np.float64
)


def require_own(path: Path, software: str = SOFTWARE, advice: str = "give another -o") -> None:
    """Refuses to replace a file that a command did not write.

    Args:
        path: A PNG or JPEG of the command, or absent.
        software: The command, which marks its PNGs, and its JPEGs by a comment.
        advice: What to do else, for the error.

    Raises:
        ConfigError: Such a file is there.
    """
    if not path.exists():
        return
    try:
        with Image.open(path) as image:
            marks = (image.info.get("Software"), image.info.get("comment"))
            own = software in marks or software.encode() in marks
    except OSError:
        own = False
    if not own:
        raise ConfigError(f"{path} exists and was not drawn by `{software}`; {advice}")


def save_overlay(path: Path, image: Image.Image, heatmap: np.ndarray, place: Place) -> None:
    """Writes an upright image with its heat map over it and a frame around a place.

    Args:
        path: The PNG; whole or absent.
        image: As it was read.
        heatmap: Cosines [S, S] of the image's centred square.
        place: To be framed.

    Raises:
        StorageError: The folder cannot be written.
    """
    shown = to_rgb(image)
    left, top, side = centered_square(image)
    low, high = float(heatmap.min()), float(heatmap.max())
    share = (heatmap - low) / max(high - low, MIN_RANGE)
    layer = Image.fromarray(_colors(share)).resize((side, side), Image.Resampling.BILINEAR)
    opacity = Image.fromarray((90 + 100 * share).astype(np.uint8)).resize((side, side))
    gray = shown.convert("L").convert("RGB")  # outside of the square: not seen by the model
    gray.paste(shown.crop((left, top, left + side, top + side)), (left, top))
    gray.paste(layer, (left, top), opacity)
    line = max(2, min(shown.size) // 150)
    draw = ImageDraw.Draw(gray)
    box = (place.box[0], place.box[1], max(place.box[2] - 1, place.box[0]),
           max(place.box[3] - 1, place.box[1]))  # fmt: skip
    draw.rectangle(box, outline="black", width=line + 2)
    draw.rectangle(box, outline="white", width=line)
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    with writing(path) as file:
        gray.save(file, "PNG", pnginfo=info)


def _colors(share: np.ndarray) -> np.ndarray:
    """Colors uint8 [H, W, 3] of shares [H, W] between 0 and 1."""
    steps = np.linspace(0, 1, len(COLORS))
    channels = [np.interp(share, steps, COLORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)
