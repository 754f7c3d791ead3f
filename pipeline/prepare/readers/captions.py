"""The captions of an image, from the texts that tables and descriptions hold."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable
from contextlib import suppress

from pipeline.artifacts.texts import clean_caption, is_unicode
from pipeline.prepare.images import UnusableImage

REPLACEMENT = "\ufffd"  # the replacement character, for bytes that could not be decoded
KINDS = r"((array|list|tuple|set)\()?"
OPENED = re.compile(KINDS + r"[\[({]")
QUOTED = re.compile(KINDS + "[\\[{]+\\s*[bru]?['\"\u2018\u201c]")
ENCODED = re.compile(r'"\s*\[.*\]\s*"', re.DOTALL)  # a list that was written twice
LAYOUT = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER)


def clean_captions(texts: Iterable[str]) -> list[str]:
    """Splits lists, joins words by single spaces and drops empty captions.

    Raises:
        UnusableImage: No caption is left, one is a structure other than a list of texts, or one
            was decoded with the wrong encoding.
    """
    captions = [text for raw in texts for item in split_list(raw) if (text := clean_caption(item))]
    if not captions:
        raise UnusableImage("no caption")
    for caption in captions:
        if REPLACEMENT in caption or not is_unicode(caption):
            raise UnusableImage(f"a caption in the wrong encoding ({caption!a})")
    return captions


def split_list(text: str) -> list[str]:
    """The items of a list that was written into one cell, in JSON, or as Python or NumPy print it;
    of another text, itself.

    Raises:
        UnusableImage: The text is another structure, or a list that is cut off.
    """
    text = text.strip()
    if ENCODED.fullmatch(text):
        with suppress(ValueError):
            text = str(json.loads(text)).strip()
    if not OPENED.match(text):
        return [text]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = _literals(text)
        if values is None and not QUOTED.match(text):
            return [text]  # such as "[a dog] on grass"
    if not isinstance(values, list) or not all(v is None or isinstance(v, str) for v in values):
        raise UnusableImage(f"a cell that is no list of captions ({text[:40]!a})")

    return [value or "" for value in values]


def _literals(text: str) -> list[str | None] | None:
    """The strings of a list or tuple of Python, also without commas; None for another text.

    Python itself would join strings without a comma between them.
    """
    items: list[str | None] = []
    commas = 0
    try:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        for token in [t for t in tokens if t.type not in LAYOUT][1:]:
            if token.type == tokenize.STRING or token.string == "None":
                value = ast.literal_eval(token.string)
                if value is not None and not isinstance(value, str):
                    return None
                items.append(value)
            elif token.string == ",":
                commas += 1
            elif token.string != "])"[text[0] == "("]:
                return None
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    # a sentence in parentheses is a caption
    return None if text[0] == "{" or (text[0] == "(" and not commas) else items
