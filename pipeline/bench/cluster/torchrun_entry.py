"""The training loop under torchrun:
`torchrun ... -m pipeline.bench.cluster.torchrun_entry FILE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from kdeov.errors import DataError
from pipeline.config.execution_params import ClusterParams
from pipeline.config.stage_params import DistillParams
from pipeline.runtime.lifetime import signal_at_parents_end
from pipeline.storage.checked import checked_json, read_checked_json
from pipeline.storage.storage import open_storage
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "torchrun.json"


def torchrun(config: TrainConfig, ranks: int) -> None:
    """Trains in new processes of one thread each, on the CPU.

    Args:
        config: Config of the run.
        ranks: Number of processes.

    Raises:
        DataError: Training failed.
    """
    values = {
        "params": config.params.model_dump(mode="json"),
        "images": str(config.images),
        "embeddings": str(config.embeddings),
        "identities": config.identities,
        "run": config.run.address,
    }
    config.run.write(CONFIG, checked_json(values))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", __name__, config.run.where(CONFIG)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        preexec_fn=signal_at_parents_end(),
    )
    if done.returncode:
        raise DataError(f"bench cluster: torchrun ended with status {done.returncode}; see above")


def main(path: Path) -> None:
    """Trains as one rank of `torchrun`, with the config of a file."""
    values = read_checked_json(path)
    config = TrainConfig(
        params=DistillParams.model_validate(values["params"]),
        images=Path(values["images"]),
        embeddings=Path(values["embeddings"]),
        identities=values["identities"],
        run=open_storage(values["run"]),
        cluster=ClusterParams(mode="inline", use_gpu=False),
    )
    dist.init_process_group("gloo")
    try:
        train(config, lambda _: None)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
