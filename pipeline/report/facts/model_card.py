"""The model card: Markdown whose front matter model hubs read, from the facts of the report.

The front matter has the keys of Hugging Face's model cards: `license`, `library_name`, `tags`,
`datasets`, and `model-index` with the results.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdeov.errors import ConfigError
from pipeline.report.facts.data import DataFacts
from pipeline.report.facts.provenance import Provenance
from pipeline.report.results import METRIC_LABELS, TASKS, MetricValue, Results, is_certain
from pipeline.storage.files import write_text

MARK = re.compile(r"\n<!-- written by kdeov card, sha256 ([0-9a-f]{64}) -->\n\Z")
TASK_TYPES = {
    "zero_shot": ("zero-shot-image-classification", "accuracy"),
    "linear_probe": ("image-classification", "accuracy"),
    "retrieval": ("image-text-retrieval", "recall"),
}
"""By evaluation, the type of its task and of its metrics, as hubs name them."""
TAGS = (
    "clip", "knowledge-distillation", "zero-shot", "open-vocabulary", "image-text-retrieval",
    "image-feature-extraction", "onnx",
)  # fmt: skip
SPECIAL = re.compile(r"([\\`*_\[\]#|<>~&$])")


def model_card(results: Results, provenance: Provenance, data: DataFacts) -> str:
    """The card of a student.

    Args:
        results: The results of its run.
        provenance: Where it comes from.
        data: What it was trained on.
    """
    front = yaml.safe_dump(front_matter(results), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{front}---\n\n# {plain(results.run.name)}",
        _summary(results, provenance),
        "## Use",
        "```python\nfrom kdeov import Model\n\n"
        'model = Model.open("FOLDER_OF_THIS_CARD")  # the files of out/export\n'
        'model.classify("dog.jpg", ["cat", "dog", "bird"])\n```',
        "## Results",
        _results(results),
        "## Data",
        _data(results, data),
        "## Limits",
        _limits(results),
        "## Provenance",
        _table(("what", "value"), provenance.facts),
        "To make it again:\n\n```bash\n" + "\n".join(provenance.repeat) + "\n```",
        "## Licenses",
        _table(("part", "license"), provenance.licenses),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return f"{text}\n<!-- written by kdeov card, sha256 {_digest(text)} -->\n"


def front_matter(results: Results) -> dict[str, Any]:
    """The metadata that hubs read. A student has parts under several licenses, which the card
    lists, so that `license` is `other`.
    """
    tasks = [
        {
            "task": {"type": TASK_TYPES[name][0], "name": TASKS[name]},
            "dataset": {
                "name": results.dataset.name,
                "type": results.dataset.name,
                "split": "test",
            },
            "metrics": [
                {"type": TASK_TYPES[name][1], "name": label, "value": round(value.value, 4)}
                for key, label in METRIC_LABELS[name].items()
                if (value := MetricValue.of(scores["student"], key)) is not None
                and not value.is_rank
                and not is_certain(key, scores)
            ],
        }
        for name, scores in results.evaluations.items()
    ]
    found: dict[str, Any] = {
        "license": "other",
        "license_name": "see-licenses-of-the-parts",
        "library_name": "kdeov",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": list(TAGS),
        "datasets": [results.dataset.name],
    }
    if tasks:
        found["model-index"] = [{"name": results.run.name, "results": tasks}]
    return found


def write_card(path: Path, text: str) -> None:
    """Writes a card, or replaces one.

    Args:
        path: The Markdown file.
        text: What `model_card` gave.

    Raises:
        ConfigError: There is a file that `kdeov card` did not write, or that was edited since.
        StorageError: The folder cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file, such as {path / 'README.md'}")
    if path.exists() and not _is_own(path):
        raise ConfigError(
            f"{path} exists and is not as `kdeov card` wrote it; give another -o, or delete it"
        )
    write_text(path, text)


def plain(text: str) -> str:
    """Text from outside for Markdown, on one line: none of it is markup."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return SPECIAL.sub(r"\\\1", line)


def _is_own(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    mark = MARK.search(text)
    return mark is not None and _digest(text[: mark.start()]) == mark[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _summary(results: Results, provenance: Provenance) -> str:
    transform, tower = provenance.export["transform"], results.efficiency["student"]
    return (
        f"A CLIP student for {transform['size']} px images: {tower['parameters'] / 1e6:.2f} M "
        f"parameters in the image tower, distilled from {plain(results.run.teacher)} on "
        f"{plain(results.dataset.name)} with KDEOV. It classifies, retrieves, localises and "
        "detects whatever can be named: its texts are embedded by the teacher's frozen text "
        "encoder, or looked up in a table of them."
    )


def _results(results: Results) -> str:
    lines = [_table(("test split", *results.columns), results.table())] if results.table() else []
    if results.detection is not None:
        lines.append("\n".join(results.detection.markdown()).strip())
    lines += [plain(remark) for remark in results.remarks()]
    if results.evaluations:
        lines.append("In brackets: 95% bootstrap intervals over the test images. Protocols:")
        lines.append("\n".join(f"- {plain(line)}" for line in results.protocols()))
    if results.deployed is not None:
        lines.append(plain(results.deployed.line()))
    return "\n\n".join(lines)


def _data(results: Results, data: DataFacts) -> str:
    rows = [(split.name, f"{split.images:,}", f"{split.rejected:,}") for split in data.splits]
    classes = results.dataset.classes
    lines = [_table(("split", "images", "rejected inputs"), rows)]
    if classes:
        lines.append(f"{len(classes):,} classes, {len(results.dataset.held_out):,} held out.")
    for splits, near in results.dataset.near_duplicates.items():
        lines.append(f"Near duplicates, {plain(splits)}: {near['images']:,} images.")
    return "\n\n".join(lines)


def _limits(results: Results) -> str:
    ece = results.zero_shot.get("student", {}).get("ece")
    lines = ["- The numbers are of the test split above; on other images they will differ."]
    if ece is not None:
        lines.append(
            f"- Expected calibration error of its probabilities: {ece:.3f} (15 bins of equal "
            "width, Guo et al. 2017)."
        )
    lines.append("- It inherits what its teacher learned, biases included.")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(plain, row))} |" for row in rows]
    return "\n".join(lines)
