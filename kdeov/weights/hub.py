"""Downloads of open_clip's weights and tokenizers.

The bytes come through open_clip's and huggingface_hub's own clients. Added here: the address, size
and sha256 are logged before a download starts, the sha256 is compared after it, and a machine
without a network gets one line at once (the hub's client retries for 23 s and shows a stack trace).
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from kdeov.errors import DataError, StorageError, first_line
from kdeov.weights.digests import sha256_file
from kdeov.weights.open_clip import Source
from kdeov.weights.towers import import_open_clip

logger = logging.getLogger(__name__)

SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_weights(source: Source, cache_dir: str | Path | None = None) -> Path:
    """Returns the weight file of a source; downloads it where the cache has none.

    Args:
        source: Names a file or a tag.
        cache_dir: Folder for downloads; by default open_clip's.

    Raises:
        StorageError: There is no network, or the hub has no such file.
        DataError: The file in the cache is damaged.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if source.file is not None or source.tag is None:
        return Path(source.pretrained if source.file is None else source.file)
    repository, _, file = source.tag.get("hf_hub", "").rpartition("/")
    if not repository:
        logger.info("%s: downloads %s", source.name, source.tag["url"])
        return _download(source, source.tag["url"], cache_dir)
    # safetensors first, as open_clip prefers them
    files = [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    if file:
        files = list(dict.fromkeys([str(Path(file).with_suffix(".safetensors")), file]))
    for candidate in files:
        if (path := cached_file(repository, candidate, cache_dir)) is not None:
            return _verified(path)
    tokenizer = source.config["text_cfg"].get("hf_tokenizer_name")
    remedy = (
        f"name it {source.pretrained}{{suffix}}"
        + (f", put the tokenizer files of {tokenizer} beside it" if tokenizer else "")
        + " and set `pretrained` to its path"
    )
    url = find_on_hub(repository, files, source.name, cache_dir, remedy)
    return _verified(_download(source, url, cache_dir))


def cached_file(repository: str, file: str, cache_dir: str | Path | None) -> Path | None:
    """Returns a file of the hub that was downloaded before, or None."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file, cache_dir=cache_dir)
    return Path(path) if isinstance(path, str) else None


def find_on_hub(
    repository: str, files: list[str], name: str, cache_dir: str | Path | None, remedy: str
) -> str:
    """Asks the hub, once and without retries, for the first of some files that it has.

    Args:
        repository: Repository of the hub.
        files: File names, the preferred one first.
        name: Model or tokenizer that needs the file, for the log and errors.
        cache_dir: Folder for downloads; None is the hub's default.
        remedy: Advice for a user who fetches the file elsewhere; `{suffix}` is its ending.

    Returns:
        The address of the file.

    Raises:
        StorageError: There is no network, or the hub has none of the files.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    folder = cache_dir or constants.HF_HUB_CACHE
    url = ""
    reason: Exception | None = None
    for file in files:
        url = hf_hub_url(repository, file)
        try:
            metadata = get_hf_file_metadata(url)
        except EntryNotFoundError as error:
            reason = error
            continue
        except (HTTPError, OSError) as error:  # HTTPError is the base of the hub's HTTP client
            reason = error
            break
        sha256 = metadata.etag if SHA256.fullmatch(metadata.etag or "") else "unknown"
        logger.info(
            "%s: downloads %s (%.1f MB, sha256 %s) into %s",
            name, url, (metadata.size or 0) / 1e6, sha256, folder,
        )  # fmt: skip
        return url
    assert reason is not None
    raise StorageError(
        f"{name}: {url} is not in {folder} and cannot be downloaded "
        f"({first_line(reason)}); download it elsewhere, "
        f"{remedy.format(suffix=Path(url).suffix)}"
    ) from reason


def _download(source: Source, url: str, cache_dir: str | Path | None) -> Path:
    """Downloads by open_clip, which compares the sha256 where the address has one."""
    try:
        return Path(import_open_clip().download_pretrained(source.tag, cache_dir=cache_dir))
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"{source.name}: {url} cannot be downloaded ({first_line(error)}); "
            "download it elsewhere and set `pretrained` to its path"
        ) from error


def _verified(path: Path) -> Path:
    """Compares a file with the sha256 by which the hub's cache names it."""
    sha256, expected = sha256_file(path), path.resolve().name
    if SHA256.fullmatch(expected) and expected != sha256:
        raise DataError(f"{path.resolve()}: damaged, its sha256 is {sha256}; delete it")
    logger.info("%s: sha256 %s", path, sha256)
    return path
