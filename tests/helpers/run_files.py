"""The files of a run that `kdeov compare` reads, written without a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from kdeov.evaluation.answers import answers_to_arrays
from kdeov.evaluation.bootstrap import Mean, Median, values_of
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import sha256_file

SIZE = 64  # test images


def write_run(
    root: Path,
    known: int,
    params: Mapping[str, Any],
    dataset: str = "scenes",
    test: str = "images a38efe16",
) -> None:
    """Writes params, metrics, answers and curves of a student.

    Args:
        root: Folder of the checkout.
        known: How many test images the student recognises.
        params: Params, by section.
        dataset: Name of the data set.
        test: The test images, as the protocol names them.
    """
    right = np.arange(SIZE) < known
    ranks = np.where(right, 1, 9)
    statistics = {
        "top1": Mean.of(right),
    }
    found = {"i2t_r1": Mean.of(right), "i2t_median_rank": Median(ranks, np.arange(SIZE))}
    for name, metrics in (("zero_shot", statistics), ("retrieval", found)):
        scores = {
            "student": values_of(metrics, SIZE),  # type: ignore[arg-type]
            "fingerprint": f"{known}",
            "protocol": f"{name}/{dataset} {test}/64 px/1000 bootstrap samples",
        }
        write_checked_json(root / "metrics" / f"{name}.json", {dataset: scores})
        folder = root / "out" / "evaluation" / name
        folder.mkdir(parents=True, exist_ok=True)
        arrays = answers_to_arrays({"student": metrics})  # type: ignore[dict-item]
        np.savez(folder / "answers.npz", fingerprint=f"{known}", size=SIZE, **arrays)
        write_checked_json(
            folder / "answers.json", {"answers.npz": sha256_file(folder / "answers.npz")}
        )
    with open(root / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(dict(params), file)
    (root / "metrics" / "history.csv").write_text(
        "epoch,train_total,val_cosine\n"
        + "".join(f"{n},{1 / n},{known / 64}\n" for n in (1, 2, 3)),
        encoding="utf-8",
    )
