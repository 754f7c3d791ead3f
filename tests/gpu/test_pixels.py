"""Pixels on a device: the bytes of a CPU, and batches that no later copy overwrites."""

from __future__ import annotations

import torch

from kdeov.data.colors import adjust_colors_
from kdeov.data.views import View, ViewPlan
from kdeov.weights.device import upload
from pipeline.runtime.prefetch import prefetched

SIDE = 96


def test_colors_have_the_bytes_of_a_cpu(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    plan = ViewPlan(count=64, color_jitter=0.9, blur_prob=0.7)
    views = plan.draw_all("image", (640, 480))
    views[1] = View(0, 0, 9, 9, brightness=0, contrast=200, saturation=200, blur=11)
    found = adjust_colors_(pixels.clone().to(device), views)
    assert found.device.type == device
    assert not torch.equal(found.cpu(), pixels)
    assert torch.equal(found.cpu(), adjust_colors_(pixels, views))


def test_prefetched_batches_hold_what_was_read_while_kernels_run(device: str) -> None:
    """Steps longer than copies, so that memory of a batch that is still read could be reused."""
    count, size = 30, (8, 3, 128, 128)
    busy = torch.randn(1024, 1024, device=device)
    source = (torch.full(size, number, dtype=torch.uint8) for number in range(count))
    sums = []
    for batch in prefetched(source, lambda b: upload(b, device).float(), device):
        if device == "cuda":
            for _ in range(20):
                busy = torch.nn.functional.normalize(busy @ busy)
        sums.append(batch.mean())
    assert [value.item() for value in sums] == list(range(count))
