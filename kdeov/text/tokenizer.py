"""Texts to tokens, by the text section of an open_clip configuration.

The tokenizers are open_clip's own classes. `open_clip.get_tokenizer("local-dir:FOLDER")` would
choose between them, but in open_clip 3.3.0 it passes every option of the folder's configuration on:
`trust_remote_code` runs Python that lies in the folder, `bpe_path` reads any file of the disk, and
`reduction_mask: random` draws tokens at random. Here an option is allowed by name, or refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.weights.hub import cached_file, find_on_hub
from kdeov.weights.towers import import_open_clip

logger = logging.getLogger(__name__)

# Options that a configuration may set.
BPE_OPTIONS = {"clean", "additional_special_tokens"}
HUB_OPTIONS = {"clean", "strip_sep_token"}
HUB_FILES = ["tokenizer_config.json", "tokenizer.json"]
# Tokenizers with one vocabulary and equal tokens of these texts count as one. The digest is of
# tokens, since the files of a tokenizer differ between versions of a library.
PROBE_TEXTS = (
    "a photo of a cat", "Two DOGS,  on a beach at 10:30!", "it's naïve: café 猫 Straße ½",
    "internationalisation of hyper-parameters", "&amp; <b>_tag_</b> 123456789 \U0001f431", "",
)  # fmt: skip


class OpenClipTokenizer:
    """CLIP's byte-pair tokenizer, or one of the transformers package (SigLIP, CLIPA, MetaCLIP 2).

    Args:
        text_config: `text_cfg` of an architecture.
        folder: Folder with the files of a transformers tokenizer; None takes them from the hub.
        cache_dir: Folder for the hub's files.

    Raises:
        ConfigError: The configuration has an option that is not supported, or transformers is not
            installed.
        DataError: The tokenizer's files are damaged.
        StorageError: The tokenizer's files cannot be downloaded.
    """

    def __init__(
        self,
        text_config: dict[str, Any],
        folder: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ):
        self.name: str = text_config.get("hf_tokenizer_name") or "clip-bpe"
        self.needs_files = self.name != "clip-bpe"
        self.context_length: int = text_config.get("context_length", 77)
        self._warned_of_cuts = False
        options = dict(text_config.get("tokenizer_kwargs") or {})
        if unsupported := sorted(
            options.keys() - (HUB_OPTIONS if self.needs_files else BPE_OPTIONS)
        ):
            raise ConfigError(
                f"{self.name}: tokenizer option {unsupported[0]!r} is not supported; remove it"
            )
        options["context_length"] = self.context_length
        if self.needs_files:
            options["tokenizer_mode"] = text_config.get("tokenizer_mode")
            self._tokenizer = self._from_files(folder, cache_dir, options)
            return
        self._tokenizer = import_open_clip().SimpleTokenizer(**options)
        vocabulary = text_config.get("vocab_size", 49408)
        if self._tokenizer.vocab_size > vocabulary:
            raise ConfigError(
                f"the text tower embeds {vocabulary} tokens, CLIP's byte pairs are "
                f"{self._tokenizer.vocab_size}; add hf_tokenizer_name to the configuration"
            )

    def _from_files(
        self, folder: str | Path | None, cache_dir: str | Path | None, options: dict[str, Any]
    ) -> Any:
        require_transformers(self.name)
        local = folder is not None or all(
            cached_file(self.name, file, cache_dir) for file in HUB_FILES
        )
        if not local:
            remedy = (
                "with the repository's other tokenizer files, and put them beside the weight file"
            )
            find_on_hub(self.name, HUB_FILES, self.name, cache_dir, remedy)
        try:
            return import_open_clip().tokenizer.HFTokenizer(
                str(folder or self.name),
                cache_dir=cache_dir, local_files_only=local, trust_remote_code=False, **options,
            )  # fmt: skip
        except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
            raise DataError(
                f"{self.name}: its tokenizer in {folder or 'the cache of the hub'} cannot be read "
                f"({first_line(error)}); get its files again"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, with one warning."""
        texts = list(texts)
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens = self._tokenizer(texts)
        if not self._warned_of_cuts:
            # a text is counted only if it may be too long: the last token is an end or a pad for
            # every text, so the one before it decides
            pad = self._tokenizer.tokenizer.pad_token_id if self.needs_files else 0
            full = (tokens[:, -2] != pad).nonzero().flatten().tolist()
            if any(self.length(texts[number]) > self.context_length for number in full):
                self._warned_of_cuts = True
                logger.warning("some texts exceed %d tokens and are cut there", self.context_length)
        return tokens

    def length(self, text: str) -> int:
        """Number of tokens of the whole text, start and end included."""
        tokenizer = self._tokenizer
        if not self.needs_files:
            return len(tokenizer.encode(text)) + 2
        clean = tokenizer.clean_fn(text)
        if tokenizer.tokenizer_mode == "clips":  # start, end and class
            return len(tokenizer.tokenizer(clean, add_special_tokens=False).input_ids) + 3
        return len(tokenizer.tokenizer(clean).input_ids)

    @cached_property
    def digest(self) -> str:
        """Name, and 16 hexadecimal digits of the vocabulary and the tokens of `PROBE_TEXTS`."""
        known = (
            self._tokenizer.tokenizer.get_vocab() if self.needs_files else self._tokenizer.encoder
        )
        lines = [f"{number} {token}" for token, number in sorted(known.items())]
        lines += map(str, self._tokenizer(list(PROBE_TEXTS)).tolist())
        content = "\n".join(lines).encode(errors="surrogatepass")
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:16]}"

    def save(self, folder: str | Path) -> list[str]:
        """Writes the files of a transformers tokenizer; byte pairs need none.

        Returns:
            Names of the files.
        """
        if not self.needs_files:
            return []
        tokenizer = self._tokenizer.tokenizer
        tokenizer.backend_tokenizer.no_truncation()  # else those of the last call would be saved
        tokenizer.backend_tokenizer.no_padding()
        paths = map(Path, tokenizer.save_pretrained(str(folder)))
        return [path.name for path in paths if path.is_file()]


def require_transformers(name: str) -> None:
    """Checks that transformers is installed, before anything is downloaded for it.

    Raises:
        ConfigError: The package is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"{name}: its tokenizer is one of the transformers package, which is not installed: "
            "pip install 'kdeov[hf]'"
        )


def tokenizer_folder(weights: Path) -> Path | None:
    """Returns the folder of a weight file if a tokenizer's files lie there too."""
    return weights.parent if any((weights.parent / file).is_file() for file in HUB_FILES) else None
