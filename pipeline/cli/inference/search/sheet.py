"""A contact sheet: hits side by side in one JPEG, with rank, score and name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw

from kdeov.data.images import to_rgb
from kdeov.errors import ConfigError, KdeovError, one_line
from kdeov.runtime.images import read_image
from kdeov.weights.folder import user_path
from pipeline.cli.inference.detection.fonts import font_for
from pipeline.cli.inference.overlay import require_own
from pipeline.search.index import Hit, Index
from pipeline.storage.files import writing

SOFTWARE = "kdeov search"  # comment of a sheet, which the command may replace
SIDE, GAP, LINE, SIZE = 240, 12, 16, 13  # pixels; the last of letters
MAX_COLUMNS, MAX_IMAGES = 5, 200
PAPER, INK, FAINT, FRAME = (255, 255, 255), (20, 20, 20), (110, 110, 110), (220, 60, 40)
MAX_NAME = 34  # characters


def require_drawable(path: Path, index: Index) -> None:
    """Checks that a sheet can be drawn; a file that the command did not draw is not replaced.

    Raises:
        ConfigError: Such a file is there, the name is no JPEG's, or the index is of shards.
    """
    if index.root is None:
        raise ConfigError(f"--sheet: {index.folder} is of shards, whose images are no files")
    path = user_path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise ConfigError(f"--sheet {path}: a sheet is a JPEG; give a name that ends with .jpg")
    require_own(path, SOFTWARE, "give another --sheet")


def draw_sheet(path: Path, index: Index, hits: Sequence[Hit]) -> None:
    """Writes a sheet of at most `MAX_IMAGES` hits, best first.

    Args:
        path: The JPEG; whole or absent.
        index: Whose hits they are.
        hits: At least one.

    Raises:
        StorageError: The folder cannot be written.
    """
    hits = hits[:MAX_IMAGES]
    columns = min(MAX_COLUMNS, len(hits))
    cell = SIDE + GAP, SIDE + GAP + 2 * LINE
    size = (columns * cell[0] + GAP, math.ceil(len(hits) / columns) * cell[1] + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, hit in enumerate(hits):
        left = GAP + number % columns * cell[0]
        top = GAP + number // columns * cell[1]
        thumbnail = _thumbnail(index, hit)
        if thumbnail is None:
            pen.rectangle((left, top, left + SIDE, top + SIDE), outline=FAINT)
            _write(pen, (left + 8, top + 8), "cannot be read", FAINT)
        else:
            place = left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2
            sheet.paste(thumbnail, place)
        rarity = f"  p {hit.probability:.2g}" if hit.probability is not None else ""
        _write(pen, (left, top + SIDE + 2), f"{number + 1}   {hit.score:.3f}{rarity}", INK)
        name = one_line(PurePosixPath(hit.path).name)
        name = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
        _write(pen, (left, top + SIDE + 2 + LINE), name, FAINT)
    with writing(user_path(path)) as file:
        sheet.save(file, "JPEG", quality=88, comment=SOFTWARE.encode())


def _thumbnail(index: Index, hit: Hit) -> Image.Image | None:
    """A hit's image with the frame of its region; None where it cannot be read."""
    if index.root is None:
        return None
    try:
        image = to_rgb(read_image(index.root / hit.path))
    except KdeovError:
        return None
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
    if hit.box is not None:
        left, top, right, bottom = (round(side * scale) for side in hit.box)
        box = (left, top, max(right - 1, left), max(bottom - 1, top))
        ImageDraw.Draw(shown).rectangle(box, outline=FRAME, width=3)
    return shown


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, ink: tuple[int, int, int]
) -> None:
    font = font_for(text, 13)
    pen.text(
        place, text if font is not None else ascii(text), font=font or font_for("a", 13), fill=ink
    )
