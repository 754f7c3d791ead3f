"""The parts of the section `prepare` that belong to one source each.

A part is required where `prepare.source` names it, and optional elsewhere.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, model_validator

from pipeline.config.schema import Count, Section, Share, Text, Whole, section_error


class SourceSection(Section):
    """Options of one source.

    Attributes:
        example: The part as YAML, which the error shows where it is missing.
    """

    example: ClassVar[str]


def _rising(rows: tuple[int, int]) -> tuple[int, int]:
    if rows[0] >= rows[1]:
        raise ValueError("give [first row, row after the last], the second being larger")
    return rows


class ScenesParams(SourceSection):
    example = "{train: 4000, val: 512, test: 1024}"

    train: Count
    """Number of training images."""
    val: Count
    """Number of validation images."""
    test: Count
    """Number of test images."""


class CaptionsCsvParams(SourceSection):
    example = (
        "{images: images, table: captions.csv, image_column: image, caption_column: caption, "
        "label_column: null, val: 0.1, test: 0.1}"
    )

    images: Text
    """Folder of the images, within `prepare.path`."""
    table: Text
    """A .csv, .tsv or .parquet file within `prepare.path`: one row a caption."""
    image_column: Text
    """Column of file names."""
    caption_column: Text
    """Column of captions."""
    label_column: Text | None
    """Column of class names, where images have them."""
    val: Share
    """Share of the images for validation."""
    test: Share
    """Share of the images for the test."""


class CocoPart(Section):
    images: Text
    """Folder of the images, within `prepare.path`."""
    captions: Text | None
    """`captions_*.json`, within `prepare.path`; null where images have none, as those of LVIS."""
    instances: Text | None
    """`instances_*.json`, or a file of LVIS: boxes are stored with the images; null leaves them
    out."""

    @model_validator(mode="after")
    def _lists_images(self) -> CocoPart:
        if self.captions is None and self.instances is None:
            raise section_error("captions: give captions, instances or both, as they list images")
        return self


class CocoParams(SourceSection):
    example = (
        "{train: {images: train2017, captions: annotations/captions_train2017.json, "
        "instances: annotations/instances_train2017.json}, "
        "test: {images: val2017, captions: annotations/captions_val2017.json, "
        "instances: annotations/instances_val2017.json}, val: 0.05}"
    )

    train: CocoPart
    """Files of the training split."""
    test: CocoPart
    """Files of the test split."""
    val: Share
    """Share of the training images."""
    held_out_objects: Literal["ov-coco", "lvis-rare"] | list[Text] | None = None
    """Object classes whose boxes never supervise: `ov-coco` takes the 17 of OV-COCO, its 48 base
    classes, and evaluates no other; `lvis-rare` those of frequency r; a list takes its names."""


class ImageFolderParams(SourceSection):
    example = "{templates: plain, class_names: null, val: 0.1, test: 0.1}"

    templates: Text | None
    """Set of `kdeov.prompts` that makes captions of class names; null makes none."""
    class_names: Text | None
    """JSON file within `prepare.path` that maps folders to names; null takes the folders' names,
    with spaces for underscores."""
    val: Share
    """Share of the images for validation, where there is no folder `val`."""
    test: Share
    """Share of the images for the test, where there is no folder `test`."""


class ArrayPart(Section):
    images: Text
    """Array of uint8 [N, height, width, 3], or [N, height, width] in gray."""
    labels: Text | None
    """Array of N numbers of classes; null where the images of the split have none."""
    rows: Annotated[tuple[Whole, Count], AfterValidator(_rising)] | None
    """First row of the split, and the row after its last; null takes all rows."""


class ArraySplits(Section):
    train: ArrayPart
    """Arrays of the training split."""
    val: ArrayPart | None
    """Arrays of the validation split."""
    test: ArrayPart | None
    """Arrays of the test split."""


class ArraysParams(SourceSection):
    example = (
        "{splits: {train: {images: train_x, labels: train_y, rows: null}, val: null, "
        "test: {images: test_x, labels: test_y, rows: null}}, class_names: classes, "
        "templates: plain, val: 0.1, test: 0.1}"
    )

    splits: ArraySplits
    """Names of the arrays; a split of null takes its share of the training images."""
    class_names: Text | None
    """Array of texts; null where no split has labels."""
    templates: Text | None
    """Set of `kdeov.prompts` that makes captions of class names; null makes none."""
    val: Share
    """Share of the training images, where `splits.val` is null."""
    test: Share
    """Share of the training images, where `splits.test` is null."""


class CifarParams(SourceSection):
    example = "{templates: plain, val: 0.1}"

    templates: Text
    """Set of `kdeov.prompts` that makes captions of class names."""
    val: Share
    """Share of the training images."""


class Shares(Section):
    val: Share
    """Share of the images for validation."""
    test: Share
    """Share of the images for the test."""


class FlickrParams(SourceSection):
    example = "{images: Images, captions: dataset_flickr8k.json, shares: null}"

    images: Text
    """Folder of the images, within `prepare.path`."""
    captions: Text
    """Token file, or Karpathy's JSON, within `prepare.path`."""
    shares: Shares | None
    """Shares of the splits; null takes the splits of Karpathy's JSON, which a token file lacks."""


class ShardsParams(SourceSection):
    example = "{val: 0.01, test: 0.01}"

    val: Share
    """Share of the images for validation, where there is no folder `val`."""
    test: Share
    """Share of the images for the test, where there is no folder `test`."""


class ParquetParams(SourceSection):
    example = (
        "{image_column: image, caption_column: null, label_column: label, templates: plain, "
        "val: 0.1, test: 0.1}"
    )

    image_column: Text
    """Column of images: the bytes of files, alone or as `bytes` of a struct."""
    caption_column: Text | None
    """Column of captions, one or a list for each image; null where there is none."""
    label_column: Text | None
    """Column of class names, or of numbers that the file names in its `huggingface` metadata; null
    where images have no classes."""
    templates: Text | None
    """Set of `kdeov.prompts` that makes captions of class names, where `caption_column` is null;
    null makes none."""
    val: Share
    """Share of the training images for validation, where no file is named after that split."""
    test: Share
    """Share of the training images for the test, where no file is named after that split."""


class SourceSections(Section):
    """The parts of `prepare` for the sources."""

    scenes: ScenesParams | None = None
    """Generated scenes."""
    captions_csv: CaptionsCsvParams | None = None
    """Images with a table of captions."""
    coco: CocoParams | None = None
    """COCO: images with captions and boxes."""
    flickr: FlickrParams | None = None
    """Flickr8k or Flickr30k."""
    image_folder: ImageFolderParams | None = None
    """One folder of images a class."""
    arrays: ArraysParams | None = None
    """Images in an .npz or .npy file."""
    cifar10: CifarParams | None = None
    """CIFAR-10."""
    cifar100: CifarParams | None = None
    """CIFAR-100."""
    shards: ShardsParams | None = None
    """Image shards made elsewhere."""
    parquet: ParquetParams | None = None
    """Images in Parquet files, as Hugging Face exports them."""


SOURCES: dict[str, type[SourceSection]] = {
    name: get_args(field.annotation)[0] for name, field in SourceSections.model_fields.items()
}
