"""The section `teacher` of `params.yaml`, with a part for each kind of teacher.

A part is required where `teacher.source` names it, and optional elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, Strict, model_validator

from kdeov.errors import ConfigError
from pipeline.config.schema import (
    MAX_COUNT,
    Count,
    Positive,
    Section,
    Seed,
    Text,
    WatchedPath,
    section_error,
)

TRAIN_MANIFEST = Path("out/images/train/manifest.json")


class TeacherSection(Section):
    """Options of one kind of teacher.

    Attributes:
        example: The part as YAML, which the error shows where it is missing.
    """

    example: ClassVar[str]


class TinyTeacherParams(TeacherSection):
    """A small CLIP trained here on the training captions (see `pipeline.teachers.tiny`)."""

    example = (
        "{seed: 0, epochs: 12, batch_size: 64, learning_rate: 1.0e-3, width: 16, embed_dim: 128}"
    )

    seed: Seed
    """Seed of initial weights and batches."""
    epochs: Count
    """Passes over the training captions."""
    batch_size: Annotated[int, Strict(), Field(ge=2, le=MAX_COUNT)]
    """Image and caption pairs a step."""
    learning_rate: Positive
    """Peak learning rate."""
    width: Annotated[int, Strict(), Field(ge=8, le=1024, multiple_of=2)]
    """Channels of the first layer."""
    embed_dim: Count
    """Dimension of the embeddings."""


class ClipParams(TeacherSection):
    """A model of the `clip` package."""

    example = "{model: ViT-B/32}"

    model: Text
    """A name of `clip.available_models()`, or a weight file."""


class OpenClipParams(TeacherSection):
    """A model of the `open_clip` package."""

    example = "{architecture: ViT-B-32-quickgelu, pretrained: openai}"

    architecture: Text
    """A name of `open_clip.list_models()`."""
    pretrained: Text
    """One of its tags, or a weight file."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError("give a file within teacher.path, which DVC watches")
    return name


def _one_place(template: str) -> str:
    if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
        raise ValueError("give a text with one {} for the name")
    return template


Inside = Annotated[str, AfterValidator(_inside)]


class TextEmbeddingsParams(Section):
    vectors: Inside
    """A file within `teacher.path`, a row a text."""
    names: Inside
    """A .json or .txt file within `teacher.path`: names in the order of the rows."""
    template: Annotated[str, AfterValidator(_one_place)]
    """Prompt that was embedded for each name, such as `a {}`."""


class EmbeddingsParams(TeacherSection):
    """Embeddings computed elsewhere, as clip-retrieval stores them or in single files."""

    example = (
        "{name: ViT-B/32, images: img_emb_*.npy, captions: text_emb_*.npy, metadata: "
        "metadata_*.parquet, match: source, key_column: image_path, prefix: '', "
        "caption_column: caption, texts: [], splits_without_embeddings: []}"
    )

    name: Text
    """Name of the model that computed them."""
    images: Inside
    """A .npy, .safetensors or .pt file within `teacher.path`, or a pattern of several: a row an
    image."""
    captions: Inside | None
    """The same for captions, in the order of `metadata`; null trains and tests without captions."""
    metadata: Inside | None
    """A .csv, .tsv or .parquet file within `teacher.path`, or a pattern of several."""
    match: Literal["key", "source", "row"]
    """How an image finds its embedding. `key`: `key_column` holds the key of the image in the
    shards; `source`: its name in the source; `row`: the row in the source's array is that of the
    embedding."""
    key_column: str | None
    """Column of `metadata` that names the image; null for `row`."""
    prefix: str
    """Text that is removed from the start of the values of `key_column`, such as the folder of the
    images. For `row`, the name of the array: `test_x/`."""
    caption_column: str | None
    """Column of `metadata` with the captions; null without captions."""
    texts: list[TextEmbeddingsParams]
    """Embeddings of class names, for zero-shot classification."""
    splits_without_embeddings: list[Literal["test"]]
    """Splits whose images have no embeddings; there, the student is measured alone."""

    @model_validator(mode="after")
    def _columns_are_there(self) -> EmbeddingsParams:
        if (self.metadata is None) != (self.match == "row") or (
            self.metadata is not None and self.key_column is None
        ):
            raise section_error(
                "match: `row` goes without metadata, `key` and `source` need metadata and "
                "key_column",
            )
        if self.captions is not None and (self.metadata is None or self.caption_column is None):
            raise section_error("captions: need metadata and caption_column")
        return self


class TeacherParams(Section):
    source: Literal["tiny", "clip", "open_clip", "embeddings"]
    """Kind of teacher, whose part of this section must be given."""
    path: WatchedPath
    """File or folder that the teacher is made from, which DVC watches: the manifest of the images
    that `tiny` is trained on, a weight file, or the folder of embeddings."""
    sha256: Text | None
    """Digest that the tensors must have; the stage prints it. Null takes any."""
    tiny: TinyTeacherParams | None = None
    """A small CLIP trained here."""
    clip: ClipParams | None = None
    """A model of the `clip` package."""
    open_clip: OpenClipParams | None = None
    """A model of the `open_clip` package."""
    embeddings: EmbeddingsParams | None = None
    """Embeddings computed elsewhere."""

    @property
    def options(self) -> TeacherSection:
        """The part of the chosen source."""
        return getattr(self, self.source)

    @model_validator(mode="after")
    def _part_is_there(self) -> TeacherParams:
        if getattr(self, self.source) is None:
            kind = get_args(TeacherParams.model_fields[self.source].annotation)[0]
            example = f"{self.source}: {kind.example}"
            raise section_error(f"{self.source} is missing; add to this section `{example}`")
        if self.source == "tiny" and self.path.parts[-4:] != TRAIN_MANIFEST.parts:
            raise section_error(
                f"path: give `{TRAIN_MANIFEST}`, from which the source `tiny` learns"
            )
        return self

    def absolute(self, resolve: Callable[[Path], Path]) -> TeacherParams:
        """A copy with absolute paths.

        Raises:
            ConfigError: DVC does not watch the weight file, because `path` is another one.
        """
        changes: dict[str, object] = {"path": resolve(self.path)}
        for part, key in (("clip", "model"), ("open_clip", "pretrained")):
            options = getattr(self, part)
            if options is None:
                continue
            file = resolve(Path(getattr(options, key)))
            if not os.path.isfile(file):  # noqa: PTH113 (Path raises for a long name)
                continue
            changes[part] = options.model_copy(update={key: str(file)})
            described = part == "open_clip" and (file.parent / "open_clip_config.json").is_file()
            watched = [file.parent] if described else [file, file.parent]
            if self.source == part and changes["path"] not in watched:
                what = "the folder" if described else "the weight file"
                raise ConfigError(
                    f"params.yaml: teacher.path: give it {what} of teacher.{part}.{key}, so that "
                    "DVC watches it"
                )
        return self.model_copy(update=changes)
