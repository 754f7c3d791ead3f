"""Parts of Ray that are no public API, as read in Ray 2.60.

`tests/pipeline/runtime/test_compat.py` fails where another version of Ray lacks one of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig, TorchTrainer

PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # the default; set, so that Ray does not warn of it
    # Ray watches preemption and exports state for its dashboard: seconds at start-up for nobody
    PREEMPTION: "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # 15 by default: beside another busy process, workers would wait where a stage inline does not
    "RAY_worker_niceness": "0",
    # by default, processes for tasks without variables of their own, which no stage has
    "RAY_prestart_worker_first_driver": "0",
}
"""Variables that Ray reads when it is imported or started. Few are documented: they stand in
`ray.train.constants`, `ray.train.v2._internal.constants` and `ray_config_def.h`."""

LOOPBACK = "127.0.0.1"
DASHBOARD_VARIABLE = "RAY_API_SERVER_ADDRESS"
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
SOCKET = "/session_2000-12-31_23-59-59_000000_4194304/sockets/plasma_store"
"""The longest path of a socket below Ray's folder of sessions: a process id of seven digits."""


def temporary_folder() -> Path:
    """The folder of temporary files, as Ray chooses it; its sessions are in `ray` there."""
    default = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", default))


@contextlib.contextmanager
def listening_on_loopback() -> Iterator[None]:
    """Makes a Ray that is started meanwhile listen on 127.0.0.1 alone.

    Ray does so on macOS and Windows, where it runs on one machine. Elsewhere it replaces 127.0.0.1
    by the address in the network, and then listens on all interfaces.
    """
    from ray._private import ray_constants

    before = os.environ.get(LOOPBACK_VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_VARIABLE], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(LOOPBACK_VARIABLE)
        if before[0] is not None:
            os.environ[LOOPBACK_VARIABLE] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def torch_on_loopback() -> TorchConfig:
    """Ray Train's way to set up torch's process group, with all of its ports on 127.0.0.1; for
    workers of one machine.

    The store through which ranks find each other has no token, and torch opens its port on all
    interfaces. So rank 0 opens the port itself, and the ranks connect as torchrun's do.
    """
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import (
        _set_torch_distributed_env_vars,
        _setup_torch_process_group,
        _TorchBackend,
    )

    class LoopbackBackend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            use_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
            port = worker_group.execute_single(0, _serve_store)
            worker_group.execute(_set_torch_distributed_env_vars)
            worker_group.execute(_use_store, port)
            settings: dict[str, Any] = {
                "backend": "nccl" if use_gpu else "gloo",
                "world_size": len(worker_group),
                "init_method": "env://",
                "timeout_s": backend_config.timeout_s,
            }
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank, _setup_torch_process_group, world_rank=rank, **settings
                    )
                    for rank in range(len(worker_group))
                ]
            )

    class LoopbackConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[LoopbackBackend]:
            return LoopbackBackend

    return LoopbackConfig()


def lean_trainer() -> type[TorchTrainer]:
    """Ray Train's trainer without two helpers, each a process whose imports take seconds of a core
    at the start: one serves datasets of Ray, of which there are none; the other gives room back
    where the controller dies, which a Ray that ends with this process does anyway.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class NoDatasets(WorkerGroupCallback):
        def before_init_train_context(self, workers: Any) -> dict[str, Any]:
            return {"dataset_shard_provider": [None] * len(workers)}

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            # mypy reads the older version of Ray Train, which has none of them
            found = super()._create_default_callbacks()  # type: ignore[misc]
            left = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [*(c for c in found if not isinstance(c, left)), NoDatasets()]

    return LeanTrainer


def start_coordinator() -> None:
    """Starts the actor that Ray Train's controller asks for room, without waiting for it: it is
    there when the controller, which starts meanwhile, wants it.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator()


_stores: list[Any] = []  # of this process, open until it ends


def _serve_store() -> int:
    """Opens torch's store in this process; returns its port on 127.0.0.1."""
    from torch.distributed import TCPStore

    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        _stores.append(
            TCPStore(
                LOOPBACK, port, is_master=True, wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
        )  # fmt: skip
    return port


def _use_store(port: int) -> None:
    """Makes `init_process_group` of this process use the store at a port of 127.0.0.1."""
    interface = next(
        name for name, found in psutil.net_if_addrs().items()
        if any(address.address == LOOPBACK for address in found)
    )  # fmt: skip
    os.environ.update(
        MASTER_ADDR=LOOPBACK,
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        GLOO_SOCKET_IFNAME=interface,
    )
