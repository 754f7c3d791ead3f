"""Texts to tokens, as the text section of an open_clip configuration says."""

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

from kdeov.errors import KdeovError
from kdeov.weights.hub import cached, require_hub
from kdeov.weights.towers import import_open_clip

logger = logging.getLogger(__name__)

# What a configuration may ask of a tokenizer. The rest would read other files, run code that
# comes with a tokenizer, or draw tokens at random.
BPE_OPTIONS = {"clean", "additional_special_tokens"}
HUB_OPTIONS = {"clean", "strip_sep_token"}
HUB_FILES = ["tokenizer_config.json", "tokenizer.json"]
# Tokenizers that agree on these and on their vocabulary are one: what is told apart is what comes
# out, not how some version of a library writes a tokenizer down.
PROBES = (
    "a photo of a cat", "Two DOGS,  on a beach at 10:30!", "it's naïve: café 猫 Straße ½",
    "internationalisation of hyper-parameters", "&amp; <b>_tag_</b> 123456789 \U0001f431", "",
)  # fmt: skip


class OpenClipTokenizer:
    """CLIP's byte-pair tokenizer, or one of the transformers package (SigLIP, CLIPA, MetaCLIP 2).

    Args:
        text_config: `text_cfg` of an architecture.
        folder: Where the files of a transformers tokenizer lie; None takes them from the hub.
        cache_dir: Where the hub's files are kept.

    Raises:
        KdeovError: Something is not installed, not there, or asks for more than tokens.
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
        self._told_of_cuts = False
        options = dict(text_config.get("tokenizer_kwargs") or {})
        if strange := sorted(options.keys() - (HUB_OPTIONS if self.needs_files else BPE_OPTIONS)):
            raise KdeovError(f"{self.name}: tokenizer option {strange[0]!r} is not supported")
        options["context_length"] = self.context_length
        if self.needs_files:
            options["tokenizer_mode"] = text_config.get("tokenizer_mode")
            self._tokenizer = self._from_files(folder, cache_dir, options)
            return
        self._tokenizer = import_open_clip().SimpleTokenizer(**options)
        vocabulary = text_config.get("vocab_size", 49408)
        if self._tokenizer.vocab_size > vocabulary:
            raise KdeovError(
                f"the text tower knows {vocabulary} tokens, CLIP's byte pairs are "
                f"{self._tokenizer.vocab_size}; the configuration lacks hf_tokenizer_name"
            )

    def _from_files(
        self, folder: str | Path | None, cache_dir: str | Path | None, options: dict[str, Any]
    ) -> Any:
        require_transformers(self.name)
        local = folder is not None or all(cached(self.name, file, cache_dir) for file in HUB_FILES)
        if not local:
            cure = (
                "with the repository's other tokenizer files, and put them beside the weight file"
            )
            require_hub(self.name, HUB_FILES, self.name, cache_dir, cure)
        try:
            return import_open_clip().tokenizer.HFTokenizer(
                str(folder or self.name),
                cache_dir=cache_dir, local_files_only=local, trust_remote_code=False, **options,
            )  # fmt: skip
        except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise KdeovError(
                f"{self.name}: its tokenizer in {folder or 'the cache of the hub'} cannot be read "
                f"({reason}); get its files again"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens [N, context]; longer texts are cut, which is said once."""
        texts = list(texts)
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens = self._tokenizer(texts)
        if not self._told_of_cuts:
            # the last token is an end or a pad for every text; only where the one before it is no
            # pad does counting pay
            pad = self._tokenizer.tokenizer.pad_token_id if self.needs_files else 0
            full = (tokens[:, -2] != pad).nonzero().flatten().tolist()
            if any(self.length(texts[number]) > self.context_length for number in full):
                self._told_of_cuts = True
                logger.warning("some texts exceed %d tokens and are cut there", self.context_length)
        return tokens

    def length(self, text: str) -> int:
        """Tokens of a text that nothing is cut from, with its ends."""
        tokenizer = self._tokenizer
        if not self.needs_files:
            return len(tokenizer.encode(text)) + 2
        clean = tokenizer.clean_fn(text)
        if tokenizer.tokenizer_mode == "clips":  # start, end and class
            return len(tokenizer.tokenizer(clean, add_special_tokens=False).input_ids) + 3
        return len(tokenizer.tokenizer(clean).input_ids)

    @cached_property
    def digest(self) -> str:
        """Name and content: vocabulary, context, and the tokens of texts that tell options
        apart.
        """
        known = (
            self._tokenizer.tokenizer.get_vocab() if self.needs_files else self._tokenizer.encoder
        )
        lines = [f"{number} {token}" for token, number in sorted(known.items())]
        lines += map(str, self._tokenizer(list(PROBES)).tolist())
        content = "\n".join(lines).encode(errors="surrogatepass")
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:16]}"

    def save(self, folder: str | Path) -> None:
        """Writes the files that a transformers tokenizer is read from; byte pairs need none."""
        if self.needs_files:
            backend = self._tokenizer.tokenizer.backend_tokenizer
            backend.no_truncation()  # what was tokenised last would stand in its file
            backend.no_padding()
            self._tokenizer.save_pretrained(str(folder))


def require_transformers(name: str) -> None:
    """Checks for the package before anything is downloaded for it.

    Raises:
        KdeovError: The package is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise KdeovError(
            f"{name}: its tokenizer is one of the transformers package, which is not installed: "
            "pip install 'kdeov[hf]'"
        )


def tokenizer_folder(weights: Path) -> Path | None:
    """The folder of a weight file, if a tokenizer's files lie there too."""
    return weights.parent if any((weights.parent / file).is_file() for file in HUB_FILES) else None
