"""One rank of a run under torchrun: `torchrun ... -m tests.gpu.rank_entry DEVICE SHARDS RUN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from pipeline.runtime.device import use_local_gpu
from pipeline.training.loop import train
from tests.gpu.conftest import Cache

LEARNING_RATE = 1e-5  # so that rounding does not grow from step to step


def main(device: str, shards: Path, run: Path) -> None:
    """Trains with NCCL on GPUs, or with gloo on the CPU."""
    if device == "cuda":
        use_local_gpu()  # before the group, whose first exchange is on the current GPU
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        identities = json.loads((shards / "identities.json").read_text(encoding="utf-8"))
        cache = Cache(shards, identities)
        train(cache.config(run, device, learning_rate=LEARNING_RATE), lambda _: None)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
