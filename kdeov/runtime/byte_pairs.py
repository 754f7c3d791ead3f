"""Byte-pair encoding with CLIP's merges (Sennrich et al., 2016, arXiv:1508.07909; Radford et al.,
2021, arXiv:2103.00020).

Tokens equal those of `clip.simple_tokenizer` and `open_clip.SimpleTokenizer`. Those search the
whole word for each merge, whose time grows with the square of its length; a heap finds the next
merge here, so that one text of 100,000 letters does not block a server.
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Sequence
from pathlib import Path

import regex

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.runtime.card import CLIP_SPECIAL_TOKENS, FIX

NUM_MERGES = 49152 - 256 - 2  # the file has more
END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MAX_CACHED = 100_000  # words


class BytePairs:
    """Splits clean texts into words, and words into numbered tokens.

    Args:
        path: clip's file of merges, in gzip.
        special_tokens: Start, end and additional ones.

    Raises:
        DataError: The file is damaged or holds something else.
    """

    def __init__(self, path: Path, special_tokens: Sequence[str]):
        try:
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: unreadable ({first_line(error)}); {FIX}") from error
        merges = [tuple(line.split()) for line in lines[1 : NUM_MERGES + 1]]
        if len(merges) != NUM_MERGES or any(len(merge) != 2 for merge in merges):
            raise DataError(f"{path}: does not hold CLIP's {NUM_MERGES} merges; {FIX}")
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._letters = byte_letters()
        letters = list(self._letters.values())
        vocabulary = [*letters, *(letter + END for letter in letters), *map("".join, merges)]
        vocabulary.extend(special_tokens)
        self.numbers = {token: number for number, token in enumerate(vocabulary)}
        special = {token: (self.numbers[token],) for token in special_tokens}
        self._special = special
        self._cache: dict[str, tuple[int, ...]] = dict(special)
        # clip escapes its two tokens; open_clip joins its own, and additional ones, as they are
        escape = tuple(special_tokens) == CLIP_SPECIAL_TOKENS
        patterns = [regex.escape(token) if escape else token for token in special_tokens]
        try:
            self._words = regex.compile("|".join([*patterns, WORDS]), regex.IGNORECASE)
        except regex.error as error:
            raise ConfigError(
                f"{path}: special tokens {list(special_tokens)} cannot be searched for "
                f"({first_line(error)}); {FIX}"
            ) from error

    def encode(self, text: str) -> list[int]:
        """The tokens of a clean text, without start and end."""
        tokens: list[int] = []
        for word in self._words.findall(text):
            letters = "".join(self._letters[byte] for byte in word.encode("utf-8"))
            known = self._cache.get(letters)
            if known is None:
                known = tuple(self.numbers[part] for part in self._merged(letters))
                if len(self._cache) >= MAX_CACHED:
                    self._cache = dict(self._special)
                self._cache[letters] = known
            tokens += known
        return tokens

    def _merged(self, letters: str) -> list[str]:
        """Applies the merges in the order of their ranks, each from left to right."""
        parts = [*letters[:-1], letters[-1] + END]
        size = len(parts)
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        heap: list[tuple[int, int]] = []

        def rank_at(left: int) -> int | None:
            right = after[left]
            return self._ranks.get((parts[left], parts[right])) if right < size else None

        def add(left: int) -> None:
            if left >= 0 and (rank := rank_at(left)) is not None:
                heapq.heappush(heap, (rank, left))

        for left in range(size):
            add(left)
        while heap:
            rank, merged = heap[0][0], []
            while heap and heap[0][0] == rank:
                left = heapq.heappop(heap)[1]
                if rank_at(left) == rank:  # else a merge has changed one of the two
                    right = after[left]
                    parts[left] += parts[right]
                    parts[right] = ""
                    after[left] = after[right]
                    if after[right] < size:
                        before[after[right]] = left
                    merged.append(left)
            for left in merged:  # new pairs wait until all pairs of this rank are merged
                add(left)
                add(before[left])
        return [part for part in parts if part]


def byte_letters() -> dict[int, str]:
    """One printable letter for each byte, as GPT-2 and CLIP number them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }
