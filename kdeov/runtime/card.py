"""The description of an export folder: `card.json`, which the export writes and the runtime reads.

The card holds its own digest and the sha256 of every other file. Reading it compares the first; a
file's sha256 is compared when that file is loaded, so that a large file that is not used costs no
time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from kdeov.errors import DataError, first_line
from kdeov.weights.digests import FILES, require_sha256, without_digest, write_description
from kdeov.weights.folder import user_path

FORMAT = 1
CARD = "card.json"
IMAGE, INT8, DENSE, PROGRAM = "image.onnx", "image.int8.onnx", "dense.onnx", "image.pt2"
DETECT = "detect.onnx"
TEXT = "text.onnx"
BPE, HF_TOKENIZER = "bpe_simple_vocab_16e6.txt.gz", "tokenizer.json"
TABLE_TEXTS, TABLE_EMBEDDINGS = "texts.json", "texts.npy"
GOLDEN = "golden.npz"
BACKGROUND = "background.npy"
TOWER, TABLE = "tower", "table"
CLIP_BPE, HF = "clip-bpe", "hf"
CLIP_SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
OPEN_CLIP_SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")
FIX = "export again with `dvc repro export` or `kdeov export`"


@dataclass(frozen=True)
class TokenizerCard:
    """A tokenizer's settings.

    Attributes:
        kind: `clip-bpe`, whose file is `BPE`, or `hf`, whose file is `HF_TOKENIZER`: what
            `backend_tokenizer.to_str()` gives without truncation and padding.
        context_length: Tokens of each text.
        clean: `lower`, `whitespace` or `canonicalize`, as open_clip names them; clip's own is
            `lower`.
        special_tokens: Of `clip-bpe`: start, end and additional ones, as they are spelled in texts.
        mode: Of `hf`: empty, or `clips` (open_clip's `tokenizer_mode`).
        strip_sep_token: Of `hf`: whether the token `sep` becomes 0.
        ids: Of `hf`: numbers of the tokens `pad`, `sep`, `bos`, `eos` and `cls`, where it has them.
        padding_side: Of `hf`: `right` or `left`.
        truncation_side: Of `hf`: `right` or `left`.
    """

    kind: str = CLIP_BPE
    context_length: int = 77
    clean: str = "lower"
    special_tokens: tuple[str, ...] = CLIP_SPECIAL_TOKENS
    mode: str = ""
    strip_sep_token: bool = False
    ids: Mapping[str, int] = field(default_factory=dict)
    padding_side: str = "right"
    truncation_side: str = "right"


@dataclass(frozen=True)
class TextCard:
    """The text side of an export.

    Attributes:
        kind: `tower` (any text is embedded) or `table` (listed texts are looked up).
        space: 64 hexadecimal digits of the text encoder; sides of equal digits go together.
        logit_scale: Factor between cosines and logits.
        tokenizer: Of a tower; None for a table.
        templates: Prompts of class names where a caller names none, each with one `{}`.
    """

    kind: str
    space: str
    logit_scale: float
    tokenizer: TokenizerCard | None = None
    templates: tuple[str, ...] = ("a photo of a {}.",)


@dataclass(frozen=True)
class DetectionCard:
    """The box head of an export; see `kdeov.runtime.detections.detection_scores`.

    Attributes:
        image_size: Height and width of the pixels that `DETECT` takes; images are letterboxed.
        scale: Factor of cosines, `a`.
        bias: Summand of scaled cosines, `b`.
        beta: Share of the class in a score, from 0 to 1.
        boxes_seen: Names of the classes whose boxes trained the trunk or the head.
    """

    image_size: int
    scale: float
    bias: float
    beta: float
    boxes_seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """The content of `card.json`.

    Attributes:
        name: Name of the student, for people.
        backbone_type: See `kdeov.models.backbone`.
        embed_dim: Width of the joint embedding space, D.
        stride: Height and width of pixels are multiples of it.
        dense_stride: Pixels per location of dense maps.
        transform: `ImageTransform.to_dict()`: size, mean, std, interpolation, crop.
        text: The text side.
        fingerprint: Of the run that trained the student; None where none did.
        parity: How far each file's outputs are from PyTorch's.
        int8: Agreement, layers in fp32, latency, calibration; empty without `INT8`.
        detection: The box head; None without `DETECT`.
        metrics: Figures of the student's evaluation.
        licenses: Of `data`, `teacher` and `backbone`.
        files: sha256 by name, of every other file of the folder; set by `write_card`.
    """

    name: str
    backbone_type: str
    embed_dim: int
    stride: int
    dense_stride: int
    transform: Mapping[str, Any]
    text: TextCard
    fingerprint: str | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    int8: Mapping[str, Any] = field(default_factory=dict)
    detection: DetectionCard | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licenses: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def write_card(folder: Path, card: Card, files: Iterable[str]) -> None:
    """Writes `card.json` with its digest and those of other files.

    Args:
        folder: Holds the files already.
        card: Its `files` are replaced.
        files: Names of the other files.
    """
    values = asdict(card)
    del values[FILES]
    if card.text.tokenizer is None:
        del values["text"]["tokenizer"]
    if card.detection is None:
        del values["detection"]
    write_description(folder / CARD, {"format": FORMAT, **values}, files)


def read_card(folder: Path) -> Card:
    """Reads `card.json` and compares it with its own digest. No other file is read.

    Raises:
        DataError: The folder or the card is missing, damaged, edited, or of another format.
    """
    path = folder / CARD
    if not path.is_file():
        found = f"not an export (no {CARD})" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {found}; `dvc repro export` or `kdeov export` writes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {FIX}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); {FIX}") from error
    values = without_digest(values, path, FIX)
    if values.get("format") != FORMAT:
        raise DataError(
            f"{path}: format {values.get('format')!r}, this version reads {FORMAT}; {FIX}, or "
            "install the version of kdeov that wrote it"
        )
    try:
        text = dict(values["text"])
        if text.get("tokenizer") is not None:
            tokenizer = dict(text["tokenizer"])
            tokenizer["special_tokens"] = tuple(tokenizer["special_tokens"])
            text["tokenizer"] = TokenizerCard(**tokenizer)
        text["templates"] = tuple(text["templates"])
        detection = values.setdefault("detection", None)  # exports of before have no box head
        if detection is not None:
            seen = tuple(detection["boxes_seen"])
            values["detection"] = DetectionCard(**{**detection, "boxes_seen": seen})
        known = {entry.name: values[entry.name] for entry in fields(Card)}
        return Card(**{**known, "text": TextCard(**text)})
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not an export's card ({first_line(error)}); {FIX}") from error


def require_file(folder: Path, card: Card, name: str) -> Path:
    """The path of a file of an export, whose sha256 is compared with the card's.

    Raises:
        DataError: The export does not have it, or it is missing, damaged or replaced.
    """
    if name not in card.files:
        raise DataError(f"{folder}: the export has no {name}; {FIX}")
    require_sha256(folder / name, card.files[name], folder / CARD, FIX)
    return folder / name


def require_transform(card: Card, folder: Path) -> None:
    """Checks the size and the filter of images.

    Raises:
        DataError: They are unknown.
    """
    size, name = (card.transform.get(key) for key in ("size", "interpolation"))
    known = isinstance(name, str) and name.upper() in Image.Resampling.__members__
    if not known or not isinstance(size, int) or size < 1:
        raise DataError(f"{folder / CARD}: images of size {size!r} by {name!r} are unknown; {FIX}")


def text_side(folder: Path, card: Card, text: str | Path | None) -> tuple[Path, Card]:
    """Folder and card of the texts that go with an export.

    Args:
        folder: The export.
        card: Its card.
        text: Another export, whose texts are used; None takes the export's own.

    Raises:
        DataError: The other export is of another text space.
    """
    if text is None:
        return folder, card
    other = user_path(text)
    other_card = read_card(other)
    if other_card.text.space != card.text.space or other_card.embed_dim != card.embed_dim:
        raise DataError(
            f"{other}: its texts are of another text space ({other_card.text.space[:8]}) than "
            f"{folder} ({card.text.space[:8]}); choose an export of a student of the same teacher"
        )
    return other, other_card
