"""Fetching open_clip's weights and tokenizers: said before it starts, shown, checked, and told in
one line where there is no network.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from kdeov.errors import KdeovError
from kdeov.weights.open_clip import Source
from kdeov.weights.towers import import_open_clip

logger = logging.getLogger(__name__)

SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_weights(source: Source, cache_dir: str | Path | None = None) -> Path:
    """The weight file of a source: its own, the cache's, or downloaded with a progress bar.

    Args:
        source: Names a file or a tag.
        cache_dir: Where downloads are kept; by default where open_clip keeps them.

    Raises:
        KdeovError: There is no network, or what arrived is damaged.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if source.file is not None or source.tag is None:
        return Path(source.pretrained if source.file is None else source.file)
    repository, _, file = source.tag.get("hf_hub", "").rpartition("/")
    if not repository:
        logger.info("%s: downloads %s", source.name, source.tag["url"])
        return _download(source, source.tag["url"], cache_dir)
    # as open_clip does, safetensors where the hub has them
    files = [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    if file:
        files = list(dict.fromkeys([str(Path(file).with_suffix(".safetensors")), file]))
    for candidate in files:
        if (path := cached(repository, candidate, cache_dir)) is not None:
            return _checked(path)
    tokenizer = source.config["text_cfg"].get("hf_tokenizer_name")
    cure = (
        f"name it {source.pretrained}{{suffix}}"
        + (f", put the tokenizer files of {tokenizer} beside it" if tokenizer else "")
        + " and set `pretrained` to its path"
    )
    address = require_hub(repository, files, source.name, cache_dir, cure)
    return _checked(_download(source, address, cache_dir))


def cached(repository: str, file: str, cache_dir: str | Path | None) -> Path | None:
    """A file of the hub that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file, cache_dir=cache_dir)
    return Path(path) if isinstance(path, str) else None


def require_hub(
    repository: str, files: list[str], name: str, cache_dir: str | Path | None, cure: str
) -> str:
    """Asks the hub once for the first file that it has, before clients that retry for a minute do.

    Args:
        repository: Of the hub.
        files: Names to try.
        name: What it is for.
        cache_dir: Where downloads are kept; None is the hub's default.
        cure: What to do with the file after fetching it elsewhere; `{suffix}` is its ending.

    Returns:
        The address of the file.

    Raises:
        KdeovError: There is no network, or the hub has none of the files.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    place = cache_dir or constants.HF_HUB_CACHE
    address = ""
    reason: Exception | None = None
    for file in files:
        address = hf_hub_url(repository, file)
        try:
            on_progress = get_hf_file_metadata(address)
        except EntryNotFoundError as error:
            reason = error
            continue
        except (HTTPError, OSError) as error:  # HTTPError is the base of the hub's HTTP client
            reason = error
            break
        digest = (
            on_progress.etag
            if on_progress.etag and SHA256.fullmatch(on_progress.etag)
            else "unknown"
        )
        logger.info(
            "%s: downloads %s (%.1f MB, sha256 %s) into %s",
            name, address, (on_progress.size or 0) / 1e6, digest, place,
        )  # fmt: skip
        return address
    raise KdeovError(
        f"{name}: {address} is not in {place} and cannot be downloaded "
        f"({str(reason).splitlines()[0]}); download it elsewhere, "
        f"{cure.format(suffix=Path(address).suffix)}"
    ) from reason


def _download(source: Source, address: str, cache_dir: str | Path | None) -> Path:
    """By open_clip's own means, which compare sha256 where its record of the tag has one."""
    try:
        return Path(import_open_clip().download_pretrained(source.tag, cache_dir=cache_dir))
    except (OSError, RuntimeError) as error:
        raise KdeovError(
            f"{source.name}: {address} cannot be downloaded ({str(error).splitlines()[0]}); "
            "download it elsewhere and set `pretrained` to its path"
        ) from error


def _checked(path: Path) -> Path:
    """Compares a file with the sha256 by which the hub's cache names it, and tells it."""
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    named = path.resolve().name
    if SHA256.fullmatch(named) and named != value.hexdigest():
        raise KdeovError(f"{path.resolve()}: damaged, its sha256 is another; delete it")
    logger.info("%s: sha256 %s", path, value.hexdigest())
    return path
