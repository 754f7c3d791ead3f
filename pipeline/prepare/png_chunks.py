"""PNG files without the texts and color profiles that are too large for Pillow."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 1 << 20  # bytes when inflated, from which on Pillow refuses the whole file
MAX_TEXTS = 1 << 25  # of all texts of a file
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_large_texts(data: bytes) -> bytes | None:
    """Drops texts and color profiles of more than `MAX_TEXT` bytes, or beyond `MAX_TEXTS` in all.

    Neither is stored in a shard; the pixels stay as they are.

    Args:
        data: The bytes of any file.

    Returns:
        The smaller file, or None where it is no PNG or nothing is dropped.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept, dropped, left, place = [SIGNATURE], False, MAX_TEXTS, len(SIGNATURE)
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 12 + size
        if kind in TEXTS:
            inflated = _inflated_size(kind, data[place + 8 : end - 4])
            left -= inflated
            if inflated > MAX_TEXT or left < 0:
                dropped, place = True, end
                continue
        kept.append(data[place:end])
        place = end
    return b"".join(kept) if dropped else None


def _inflated_size(kind: bytes, text: bytes) -> int:
    """Bytes of a text when inflated; more than `MAX_TEXT` counts as `MAX_TEXT` + 1."""
    if kind == b"tEXt":
        return len(text)
    _, _, rest = text.partition(b"\0")  # its keyword, then its method
    if kind == b"iTXt":
        if rest[:1] == b"\0":  # not compressed
            return len(rest)
        _, _, rest = rest[2:].partition(b"\0")  # its language
        _, _, rest = rest.partition(b"\0")  # its keyword in that language
        rest = b"\0" + rest
    try:
        return len(zlib.decompressobj().decompress(rest[1:], MAX_TEXT + 1))
    except zlib.error:
        return len(text)
