"""Texts to the tokens of a text tower, equal to those of clip, open_clip and transformers."""

from __future__ import annotations

import html
import logging
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import ftfy
import numpy as np

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.runtime.byte_pairs import BytePairs
from kdeov.runtime.card import CARD, CLIP_BPE, FIX, HF, TokenizerCard

logger = logging.getLogger(__name__)

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer(Protocol):
    """Turns texts into tokens.

    Attributes:
        warned_of_cuts: Whether no cut is reported any more.
    """

    warned_of_cuts: bool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [N, context]; longer texts are cut, with one warning."""


class ClipTokenizer:
    """CLIP's byte pairs.

    Args:
        path: clip's file of merges.
        card: Settings of kind `clip-bpe`.
    """

    def __init__(self, path: Path, card: TokenizerCard):
        if len(card.special_tokens) < 2:
            raise DataError(f"{path.parent / CARD}: no tokens for start and end; {FIX}")
        self._pairs = BytePairs(path, card.special_tokens)
        self._clean = clean_function(card.clean, path)
        self._context = card.context_length
        self._start, self._end = (self._pairs.numbers[token] for token in card.special_tokens[:2])
        self.warned_of_cuts = False

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [N, context]: start, the text, end and zeros."""
        rows = np.zeros((len(texts), self._context), np.int64)
        for row, text in zip(rows, texts, strict=True):
            tokens = [self._start, *self._pairs.encode(self._clean(text)), self._end]
            if len(tokens) > self._context:
                self.warned_of_cuts = _warn(self._context, self.warned_of_cuts)
                tokens = [*tokens[: self._context - 1], self._end]
            row[: len(tokens)] = tokens
        return rows


class HubTokenizer:
    """A tokenizer of the tokenizers package, as open_clip's `HFTokenizer` uses it.

    Args:
        path: `tokenizer.json`.
        card: Settings of kind `hf`.

    Raises:
        ConfigError: The package is not installed.
        DataError: The file is damaged.
    """

    def __init__(self, path: Path, card: TokenizerCard):
        try:
            import tokenizers
        except ImportError as error:
            raise ConfigError(
                f"{path}: is read by the tokenizers package, which is not installed: "
                "pip install 'kdeov[hf]'"
            ) from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the package raises nothing more precise
            raise DataError(f"{path}: unreadable ({first_line(error)}); {FIX}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._clean = clean_function(card.clean, path)
        self._card, self._ids = card, card.ids
        if card.mode not in ("", "clips"):
            raise DataError(f"{path.parent / CARD}: tokenizer mode {card.mode!r} is unknown; {FIX}")
        needed = {"pad", "bos", "eos", "cls"} if card.mode else {"pad"}
        needed |= {"sep"} if card.strip_sep_token else set()
        if missing := sorted(needed - card.ids.keys()):
            raise DataError(f"{path.parent / CARD}: no number of the token {missing[0]!r}; {FIX}")
        self.warned_of_cuts = False

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [N, context]."""
        context, clips = self._card.context_length, self._card.mode == "clips"
        clean = [self._clean(text) for text in texts]
        whole = [
            found.ids for found in self._tokenizer.encode_batch(clean, add_special_tokens=not clips)
        ]
        if any(len(ids) > context - 3 * clips for ids in whole):
            self.warned_of_cuts = _warn(context, self.warned_of_cuts)
        rows = np.full((len(texts), context), self._ids["pad"], np.int64)
        if clips:
            for row, ids in zip(rows, whole, strict=True):
                ids = [self._ids["bos"], *ids[: context - 3], self._ids["eos"]]
                row[: len(ids)] = ids
                row[-1] = self._ids["cls"]
            return rows
        cut = [
            ids if len(ids) <= context else self._cut(text)
            for ids, text in zip(whole, clean, strict=True)
        ]
        for row, ids in zip(rows, cut, strict=True):
            place = slice(-len(ids), None) if self._card.padding_side == "left" else slice(len(ids))
            if ids:
                row[place] = ids
        if self._card.strip_sep_token:
            rows[rows == self._ids["sep"]] = 0
        return rows

    def _cut(self, text: str) -> list[int]:
        """Tokens of a text that is too long. The tokenizer's own settings stay as they are, since
        several threads may share it.
        """
        found = self._tokenizer.encode(text, add_special_tokens=False)
        room = self._card.context_length - self._tokenizer.num_special_tokens_to_add(False)
        found.truncate(max(room, 0), direction=self._card.truncation_side)
        return self._tokenizer.post_process(found).ids


def clean_function(name: str, where: Path) -> Callable[[str], str]:
    """How texts are cleaned before they are split, by open_clip's name.

    Raises:
        DataError: The name is unknown.
    """
    known = {"lower": _lower, "whitespace": _whitespace, "canonicalize": _canonicalize}
    if name not in known:
        raise DataError(f"{where.parent / CARD}: cleaning {name!r} is unknown; {FIX}")
    return known[name]


def open_tokenizer(path: Path, card: TokenizerCard) -> Tokenizer:
    """Opens the tokenizer that a card describes.

    Raises:
        DataError: The kind is unknown, or the file is damaged.
    """
    if card.kind == CLIP_BPE:
        return ClipTokenizer(path, card)
    if card.kind == HF:
        return HubTokenizer(path, card)
    raise DataError(f"{path.parent / CARD}: tokenizer of kind {card.kind!r} is unknown; {FIX}")


def _basic(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _whitespace(text: str) -> str:
    return " ".join(_basic(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    text = _basic(text).replace("_", " ").translate(NO_PUNCTUATION).lower()
    return " ".join(text.split())


def _warn(context: int, warned: bool) -> bool:
    if not warned:
        logger.warning("some texts exceed %d tokens and are cut there", context)
    return True
