"""What prompts call the classes of a data set: `zero_shot.class_names`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.storage.files import digest

Renaming = dict[str, str | None]


@dataclass(frozen=True)
class PromptClasses:
    """The classes that zero-shot classification tells apart.

    Attributes:
        names: K names for prompts.
        labels: The data set's numbers of these classes, in order.
        digest: Of the renaming, or None where there is none.
    """

    names: list[str]
    labels: list[int]
    digest: str | None


def prompt_classes(classes: list[str], class_names: Renaming | Path | None) -> PromptClasses:
    """The classes of a data set under the names that prompts use.

    Args:
        classes: The data set's.
        class_names: Name in prompts by class, None for classes that are left out; a mapping, or a
            JSON file with one. Other classes keep their names.

    Raises:
        KdeovError: The file cannot be read, a name is no class or blank, two classes have one
            name, or no class is left.
    """
    if class_names is None:
        return PromptClasses(list(classes), list(range(len(classes))), None)
    where = f"{class_names}" if isinstance(class_names, Path) else "zero_shot.class_names"
    renaming = read_renaming(class_names)
    if unknown := [name for name in renaming if name not in classes]:
        known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise KdeovError(f"{where}: {unknown[0]!r} is no class of the data set; its are {known}")
    called = [renaming.get(name, name) for name in classes]
    called = [name if name is None else name.strip() for name in called]
    if "" in called:
        raise KdeovError(
            f"{where}: {classes[called.index('')]!r} is called ''; give a name, or null to leave "
            "it out"
        )
    kept = [label for label, name in enumerate(called) if name is not None]
    if not kept:
        raise KdeovError(f"{where}: every class is left out; keep some")
    names = [name for name in called if name is not None]
    owners: dict[str, str] = {}
    for label, name in zip(kept, names, strict=True):
        if (other := owners.setdefault(name, classes[label])) != classes[label]:
            raise KdeovError(
                f"{where}: {other!r} and {classes[label]!r} are both called {name!r}; prompts "
                "cannot tell them apart: give two names, or null to leave one out"
            )
    return PromptClasses(names, kept, renaming_digest(renaming))


def read_renaming(class_names: Renaming | Path) -> Renaming:
    """A renaming from params or from the JSON file that they name.

    Raises:
        KdeovError: The file is missing, or holds no mapping of texts to texts or null.
    """
    if not isinstance(class_names, Path):
        return class_names
    try:
        values: Any = json.loads(class_names.read_text())
    except OSError as error:
        raise KdeovError(f"{class_names}: {error.strerror}; check zero_shot.class_names") from error
    except ValueError as error:
        raise KdeovError(f"{class_names}: not JSON ({error}); mend the file") from error
    if not isinstance(values, dict) or not all(
        value is None or isinstance(value, str) for value in values.values()
    ):
        raise KdeovError(
            f'{class_names}: not a mapping of classes to names, such as {{"automobile": "car", '
            '"ship": null}; mend the file'
        )
    return values


def renaming_digest(renaming: Renaming) -> str:
    """The digest of a renaming, wherever it stands."""
    return digest(renaming)


def require_same_names(class_names: Renaming | Path | None, recorded: str | None) -> None:
    """Refuses zero-shot numbers that were made with other class names: DVC watches a mapping in
    params, and of a file just the path.

    Args:
        class_names: `zero_shot.class_names`.
        recorded: The digest that the metrics state.

    Raises:
        KdeovError: They differ.
    """
    current = None if class_names is None else renaming_digest(read_renaming(class_names))
    if current != recorded:
        raise KdeovError(
            "metrics/zero_shot.json: zero_shot.class_names has changed since; run `dvc repro -f "
            "zero_shot`"
        )
