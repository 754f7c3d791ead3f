"""Inputs that were rejected, summed up by reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest

from pipeline.console import printable

NUM_REASONS = 10
NUM_EXAMPLES = 3

Rejections = Sequence[dict[str, str]]  # each with `name` and `reason`, as manifests hold them


def by_reason(rejected: Rejections) -> dict[str, list[dict[str, str]]]:
    """Rejections by their reason without its details, which stand in parentheses; the most frequent
    reason first.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for entry in rejected:
        groups.setdefault(entry["reason"].partition(" (")[0], []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def summary(rejected: Rejections) -> list[str]:
    """A line for each of the most frequent reasons, with its number of inputs and examples."""
    groups = by_reason(rejected)
    lines = []
    for reason, entries in islice(groups.items(), NUM_REASONS):
        names = ", ".join(printable(entry["name"]) for entry in entries[:NUM_EXAMPLES])
        more = ", ..." if len(entries) > NUM_EXAMPLES else ""
        lines.append(f"{len(entries)} x {printable(reason)}: {names}{more}")
    if (others := len(groups) - NUM_REASONS) > 0:
        lines.append(f"and {others} other reasons")
    return lines


def examples(rejected: Rejections) -> str:
    """A few inputs with their reasons, in one line; as many reasons as possible."""
    heads = [entries[:NUM_EXAMPLES] for entries in by_reason(rejected).values()]
    rows = zip_longest(*heads)  # the first of each reason, then the second
    chosen = [entry for row in rows for entry in row if entry is not None][:NUM_EXAMPLES]
    shown = "; ".join(f"{printable(entry['name'])}: {entry['reason']}" for entry in chosen)
    return shown + ("; ..." if len(rejected) > len(chosen) else "")
