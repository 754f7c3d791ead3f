"""A loop of training that only waits, and the command that runs it on Ray in `local` mode."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.execution_params import ClusterParams
from pipeline.storage.storage import Storage, open_storage
from tests.helpers.waiting import wait_for


@dataclass(frozen=True)
class Settings:
    """Attributes: folder of the run, and where it runs."""

    run: Storage
    cluster: ClusterParams


def hold(
    config: Settings, report: Callable[[dict[str, float]], None], due: Callable[[], bool]
) -> None:
    """Writes `rank-N` once all ranks have met, and waits for the file `go`."""
    import torch.distributed as dist

    assert config.run.folder is not None
    dist.barrier()
    (config.run.folder / f"rank-{dist.get_rank()}").write_text(str(os.getpid()), encoding="utf-8")
    wait_for((config.run.folder / "go").exists)
    report({"epoch": 1})


def main(folder: Path) -> None:
    """Runs the loop with two workers."""
    from pipeline.runtime.ray_train import train_on_ray

    cluster = ClusterParams(mode="local", num_workers=2, use_gpu=False)
    settings = Settings(open_storage(str(folder)), cluster)
    train_on_ray(hold, settings, "hold", lambda _: None)
    print("own handler", signal.getsignal(signal.SIGINT) is signal.default_int_handler)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
    main(Path(sys.argv[1]))
