"""Formats that are not read, by their first bytes: what a person took for an image."""

from __future__ import annotations

# of files that `pipeline.prepare.images.decode_image` reads, without the dot, in small letters
READABLE_SUFFIXES = frozenset(
    [
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("jp2", "j2k", "jpx", "avif", "avifs", "ppm", "pgm", "pbm", "pnm", "heic", "heif", "hif"),
    ]
)

SAVE = "save it as JPEG or PNG"
AGAIN = "get it again"

# offset, bytes, name, cure
SIGNATURES = (
    (0, b"\xff\x0a", "JPEG XL", SAVE),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", SAVE),
    (0, b"\0\0\1\0", "ICO", SAVE),
    (0, b"\0\0\2\0", "CUR or TGA", SAVE),
    (0, b"icns", "ICNS", SAVE),
    (0, b"8BPS", "PSD", SAVE),
    (0, b"gimp xcf", "XCF", SAVE),
    (0, b"II\xbc", "JPEG XR", SAVE),
    (0, b"BPG\xfb", "BPG", SAVE),
    (0, b"qoif", "QOI", SAVE),
    (0, b"DDS ", "DDS", SAVE),
    (0, b"v/1\x01", "OpenEXR", SAVE),
    (0, b"#?RADIANCE", "Radiance HDR", SAVE),
    (0, b"SIMPLE  =", "FITS", SAVE),
    (128, b"DICM", "DICOM", SAVE),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph", SAVE),
    (4, b"ftypcrx ", "a raw photograph", SAVE),
    (0, b"%PDF", "PDF", SAVE),
    (0, b"%!PS", "PostScript", SAVE),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript", SAVE),
    (0, b"\x93NUMPY", "a NumPy array", "use the source arrays"),
    (0, b"\x1f\x8b", "gzip", "unpack it"),
    (0, b"PK\3\4", "ZIP", "unpack it"),
    (4, b"ftypavi", "a damaged AVIF", AGAIN),
    (4, b"ftyp", "a video", "extract its frames"),
    (0, b"\x1aE\xdf\xa3", "a video", "extract its frames"),
    (8, b"AVI LIST", "a video", "extract its frames"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull`"),
)
TEXTS = ((b"<svg", "SVG", SAVE), (b"<!doctype html", "HTML", AGAIN), (b"<html", "HTML", AGAIN))
TEXT_BYTES = 4096  # an SVG begins with comments and declarations

HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
NEUTRAL_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}  # of HEIC and AVIF alike
AVIF_BRANDS = {b"avif", b"avis"}


def is_heif(data: bytes) -> bool:
    """Whether a file is a HEIC or HEIF image, which phones make, and no AVIF."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 512)
    others = {data[place : place + 4] for place in range(16, end, 4)}
    brand = data[8:12]
    return brand in HEIF_BRANDS or (brand in NEUTRAL_BRANDS and not others & AVIF_BRANDS)


def not_an_image(data: bytes) -> str:
    """The reason why bytes that no reader recognizes are rejected; names a known format."""
    for offset, signature, name, cure in SIGNATURES:
        if data.startswith(signature, offset):
            return f"not an image that can be read, but {name}; {cure}"
    start = data[:TEXT_BYTES].lower()
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        for signature, name, cure in TEXTS:
            if signature in start:
                return f"not an image that can be read, but {name}; {cure}"
    return "not an image"
