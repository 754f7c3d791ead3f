"""Data facts: counts by split, and rejected inputs by reason."""

from __future__ import annotations

from dataclasses import replace

from pipeline.artifacts.manifest import Manifest
from pipeline.config.paths import Layout
from pipeline.report.facts.data import MAX_REASONS, DataFacts


def reject(paths: Layout, split: str, reasons: list[str]) -> None:
    """Lets a split have rejected inputs."""
    manifest = Manifest.read(paths.images / split)
    rejected = [{"name": f"{split}-{n}.jpg", "reason": r} for n, r in enumerate(reasons)]
    replace(manifest, rejected=rejected).write(paths.images / split)


def test_images_and_shards_are_counted_by_split(built: Layout) -> None:
    facts = DataFacts.read(built)
    assert [(s.name, s.images, s.shards, s.rejected) for s in facts.splits] == [
        ("train", 24, 3, 0), ("val", 12, 2, 0), ("test", 12, 2, 0),
    ]  # fmt: skip
    assert all(split.megabytes > 0 for split in facts.splits)
    assert facts.rejected == 0 and facts.rejections == []


def test_rejected_inputs_are_grouped_by_reason_and_the_list_is_bounded(checkout: Layout) -> None:
    reject(checkout, "train", ["too small"] * 3 + ["truncated"])
    reject(checkout, "val", ["truncated", *(f"odd {n}" for n in range(2 * MAX_REASONS))])
    facts = DataFacts.read(checkout)
    first, second, *_ = facts.rejections
    assert (first.reason, first.count, first.example) == ("too small", 3, "train-0.jpg")
    assert (second.reason, second.count) == ("truncated", 2)
    assert len(facts.rejections) == MAX_REASONS
    assert facts.rejected == 5 + 2 * MAX_REASONS
    assert facts.other_reasons == facts.rejected - sum(r.count for r in facts.rejections)
