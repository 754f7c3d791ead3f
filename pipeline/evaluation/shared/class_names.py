"""Class names as prompts use them: `zero_shot.class_names` renames classes or leaves them out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdeov.errors import ConfigError, DataError
from kdeov.prompts import is_visible, normalize_text
from pipeline.storage.files import digest

Renaming = dict[str, str | None]


@dataclass(frozen=True)
class PromptClasses:
    """The classes of a zero-shot classifier.

    Attributes:
        names: K class names, as they stand in prompts.
        labels: K class numbers of the data set, in increasing order.
        digest: Digest of the renaming; None if classes keep the data set's names.
    """

    names: list[str]
    labels: list[int]
    digest: str | None

    def relabel(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Selects the images whose class stands in prompts.

        Args:
            labels: [N] class numbers of the data set.

        Returns:
            [n] labels from 0 to K - 1, and [n] image numbers.
        """
        new_labels = torch.full((int(labels.max()) + 1,), -1)
        for new, old in enumerate(self.labels):
            if old < len(new_labels):
                new_labels[old] = new
        images = torch.nonzero(new_labels[labels] >= 0).flatten()
        return new_labels[labels][images], images


def prompt_classes(classes: list[str], class_names: Renaming | Path | None) -> PromptClasses:
    """Applies `zero_shot.class_names` to the classes of a data set.

    Args:
        classes: Class names of the data set.
        class_names: Maps a class to its name in prompts, or to None to leave it out; a mapping or
            the path of a JSON file with one. Classes that it does not mention keep their names.

    Raises:
        ConfigError: The file cannot be read, names an unknown class or a blank name, gives two
            classes one name, or leaves out every class.
    """
    if class_names is None:
        return PromptClasses(list(classes), list(range(len(classes))), None)
    where = f"{class_names}" if isinstance(class_names, Path) else "zero_shot.class_names"
    renaming = read_renaming(class_names)
    if unknown := [name for name in renaming if name not in classes]:
        known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise ConfigError(
            f"{where}: {unknown[0]!r} is no class of the data set; its classes are {known}"
        )
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(renaming.get(name, name) for name in classes):
        if name is None:
            continue
        if not (name := normalize_text(name) if is_visible(name) else ""):
            raise ConfigError(
                f"{where}: {classes[label]!r} has a blank name; give a name, or null to leave it "
                "out"
            )
        other = classes[labels[names.index(name)]] if name in names else classes[label]
        if other != classes[label]:  # data sets may have two classes of one name (ImageNet: crane)
            raise ConfigError(
                f"{where}: {other!r} and {classes[label]!r} have the same name {name!r}; give two "
                "names, or null to leave one out"
            )
        names.append(name)
        labels.append(label)
    if not names:
        raise ConfigError(f"{where}: every class is left out; keep at least one")
    return PromptClasses(names, labels, renaming_digest(renaming))


def read_renaming(class_names: Renaming | Path) -> Renaming:
    """Returns a renaming: the mapping itself, or the one in a JSON file.

    Raises:
        ConfigError: The file cannot be read, or does not map strings to strings or null.
    """
    if not isinstance(class_names, Path):
        return class_names
    try:
        values: Any = json.loads(class_names.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"{class_names}: {error.strerror}; check zero_shot.class_names"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{class_names}: not JSON ({error}); fix the file") from error
    if not isinstance(values, dict) or not all(
        value is None or isinstance(value, str) for value in values.values()
    ):
        raise ConfigError(
            f'{class_names}: not a mapping of classes to names, such as {{"automobile": "car", '
            '"ship": null}; fix the file'
        )
    return values


def renaming_digest(renaming: Renaming) -> str:
    """Digest of a renaming; the same for a mapping in params and one in a file."""
    return digest(renaming)


def require_same_names(class_names: Renaming | Path | None, recorded: str | None) -> None:
    """Refuses zero-shot metrics that were computed with other class names.

    DVC tracks a mapping in params.yaml, but of a file only its path; an edit of the file leaves
    old metrics in place.

    Args:
        class_names: `zero_shot.class_names`.
        recorded: Digest of the renaming in `metrics/zero_shot.json`.

    Raises:
        DataError: The digests differ.
    """
    current = None if class_names is None else renaming_digest(read_renaming(class_names))
    if current != recorded:
        raise DataError(
            "metrics/zero_shot.json: computed with other zero_shot.class_names; run `dvc repro -f "
            "zero_shot`"
        )
