"""Images that are files in a folder: the common part of the sources `captions_csv`, `coco`,
`flickr` and `image_folder`, which list the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.prepare.images import UnreadImage, UnusableImage, decode_image, without_warnings
from pipeline.prepare.readers.base import Rejected, Sample, Source, warn_of_classes
from pipeline.prepare.readers.boxes import Boxes
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.folder_files import read_within, version_within
from pipeline.prepare.readers.naming import unique_keys
from pipeline.prepare.readers.remote.bucket_folder import read_object
from pipeline.prepare.readers.remote.read_ahead import samples_of
from pipeline.prepare.readers.split_folders import Folder
from pipeline.storage.bucket import BucketStorage


@dataclass(frozen=True, slots=True)  # there may be millions
class ImageFile:
    """An image file as a source lists it.

    Attributes:
        name: Path within the folder of images.
        captions: Captions before cleaning, or None where the source has none.
        label: Class name, or None where the source has no classes.
        boxes: Annotated objects, or None where the source has none.
        version: Changes with the bytes of the file: its size and time, or the entity tag of an
            object. Empty where there is no such file.
    """

    name: str
    captions: list[str] | None
    label: str | None = None
    boxes: Boxes | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """An image file with its key and class number: the input of `FileReader`.

    Attributes:
        key: Key of its sample.
        file: The file.
        label: Class number, or None.
    """

    key: str
    file: ImageFile
    label: int | None


def image_files(
    folder: Folder,
    splits: Mapping[str, Iterable[ImageFile | Rejected]],
    max_image_side: int | None,
    option: str,
    classes: Iterable[str] = (),
) -> Source:
    """The source of image files in a folder. Its classes are those of which an image can be stored.

    Args:
        folder: The folder of images, here or in a bucket.
        splits: Files of each split, each file once, and those that listing rejects. Files of a
            bucket have their versions.
        max_image_side: See `pipeline.prepare.images.decode_image`.
        option: The keys of `params.yaml` that name the folder, for messages.
        classes: Classes that the source names, besides those of the files.

    Raises:
        DataError: The folder does not exist, or two names give one key.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images; check {option}")
    listed = {split: list(splits.get(split, ())) for split in SPLITS}
    files = [f for part in listed.values() for f in part if isinstance(f, ImageFile)]
    keys = unique_keys(file.name for file in files)
    root = folder.resolve() if isinstance(folder, Path) else folder.storage
    reader = FileReader(root, max_image_side)
    trained = _stored_classes(reader, listed["train"], set())
    stored = _stored_classes(reader, [*listed["val"], *listed["test"]], trained)
    warn_of_classes({file.label for file in files if file.label is not None} | {*classes}, stored)
    names = sorted(stored)
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}

    def inputs(part: list[ImageFile | Rejected]) -> list[Input | Rejected]:
        return [
            file
            if isinstance(file, Rejected)
            else Input(keys[file.name], _with_version(root, file), numbers.get(file.label))
            for file in part
        ]

    return Source(
        inputs={split: inputs(part) for split, part in listed.items()},
        make=reader,
        classes=names,
        held_out=[name for name in names if name not in trained],
    )


def _with_version(root: Path | BucketStorage, file: ImageFile) -> ImageFile:
    if not isinstance(root, Path):
        return file
    return replace(file, version=version_within(root, file.name))


def _stored_classes(
    reader: FileReader, part: Iterable[ImageFile | Rejected], known: set[str]
) -> set[str]:
    """The known classes, and those of which a file can be stored; reads one for most classes."""
    found = set(known)
    untried: dict[str, list[ImageFile]] = {}
    for file in part:
        if isinstance(file, ImageFile) and file.label is not None and file.label not in known:
            untried.setdefault(file.label, []).append(file)
    tries = 0
    with without_warnings():
        while untried:
            files = [some[tries] for some in untried.values()]
            samples = samples_of(reader, [Input("", file, None) for file in files])
            found |= {
                str(file.label)
                for file, sample in zip(files, samples, strict=True)
                if isinstance(sample, Sample)
            }
            tries += 1
            untried = {n: some for n, some in untried.items() if n not in found and some[tries:]}
    return found


@dataclass(frozen=True)
class FileReader:
    """Makes samples of files.

    Attributes:
        root: Folder of the images, without links in its path; or a bucket.
        max_image_side: See `pipeline.prepare.images.decode_image`.
    """

    root: Path | BucketStorage
    max_image_side: int | None

    @property
    def waits(self) -> bool:
        """Whether most of the time to read an image is waited for a network (see `samples_of`)."""
        return not isinstance(self.root, Path)

    def __call__(self, item: Input) -> Sample | Rejected:
        return self.made(item, self.fetch(item))

    def fetch(self, item: Input) -> bytes | Rejected:
        """The bytes of a file.

        Raises:
            StorageError: The bucket cannot be read.
        """
        name = item.file.name
        try:
            if isinstance(self.root, Path):
                return read_within(self.root, name)
            return read_object(self.root, name)
        except UnusableImage as error:
            unread = isinstance(error, UnreadImage) and bool(item.file.version)
            return Rejected(name, str(error), unread)

    def made(self, item: Input, data: bytes | Rejected) -> Sample | Rejected:
        """The sample of a file with these bytes."""
        name = item.file.name
        try:
            found = item.file.captions
            captions = [] if found is None else clean_captions(found)
            if isinstance(data, Rejected):
                return data
            image = decode_image(data, self.max_image_side)
            boxes = item.file.boxes
            extra = {} if boxes is None else boxes.described(image.size)
        except UnusableImage as error:
            return Rejected(name, str(error))
        return Sample(item.key, image.jpeg, captions, name, item.label, extra, image.grid)
