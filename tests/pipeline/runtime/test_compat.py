"""The parts of Ray that are no public API are where `pipeline.runtime.compat` expects them."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from kdeov.errors import ConfigError, DataError, KdeovError, StorageError
from pipeline.runtime import compat
from pipeline.runtime.compat import RAY_ENVIRONMENT
from pipeline.runtime.ray_requirements import MAX_SOCKET_BYTES
from pipeline.runtime.ray_session import unwrap_user_error


@pytest.mark.parametrize("name", [name for name in RAY_ENVIRONMENT if name.startswith("RAY_TRAIN")])
def test_ray_still_reads_the_variables_that_are_set(name: str) -> None:
    modules = map(
        importlib.import_module, ("ray.train.constants", "ray.train.v2._internal.constants")
    )
    known = [value for module in modules for value in vars(module).values()]
    assert name in known, (
        f"Ray {ray.__version__} reads no {name}; change pipeline/runtime/compat.py"
    )


@pytest.mark.parametrize("kind", [KdeovError, ConfigError, DataError, StorageError])
def test_every_kind_of_user_error_is_taken_out_of_the_wrapping_of_ray(kind: Any) -> None:
    error = kind("the file is damaged")
    wrapped = RayTaskError("make", "a long stack trace", error).as_instanceof_cause()
    assert isinstance(wrapped, kind)
    assert unwrap_user_error(wrapped) is error
    assert unwrap_user_error(RuntimeError("a crash")) is None


def test_ray_still_decides_by_one_variable_whether_it_is_for_one_machine() -> None:
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == compat.LOOPBACK_VARIABLE
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    with compat.listening_on_loopback():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    assert compat.LOOPBACK_VARIABLE not in os.environ


def test_ray_train_still_sets_up_torch_by_the_parts_that_are_replaced() -> None:
    from ray.train.torch.config import _TorchBackend

    backend = compat.torch_on_loopback().backend_cls
    assert issubclass(backend, _TorchBackend) and backend.on_start is not _TorchBackend.on_start


@pytest.mark.parametrize("variables", [{}, {"TMPDIR": "/a"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}])
def test_ray_still_chooses_this_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    from ray._common.utils import get_default_system_temp_dir

    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(compat.temporary_folder()) == get_default_system_temp_dir()


def test_ray_still_refuses_the_same_paths_of_sockets() -> None:
    from ray._private.utils import validate_socket_filepath

    longest = "/" + "x" * (MAX_SOCKET_BYTES - len(compat.SOCKET) - 1) + compat.SOCKET
    validate_socket_filepath(longest)
    with pytest.raises(OSError, match="length"):
        validate_socket_filepath(f"/{longest}")


def test_ray_train_still_has_the_helpers_that_are_left_out() -> None:
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    names = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    full = ray.train.torch.TorchTrainer(print, scaling_config=ScalingConfig(num_workers=2))
    lean = compat.lean_trainer()(print, scaling_config=ScalingConfig(num_workers=2))
    assert isinstance(lean, DataParallelTrainer)
    kinds, left = (
        [type(callback).__name__ for callback in trainer._create_default_callbacks()]
        for trainer in (full, lean)
    )
    assert names <= set(kinds)
    assert left == [*(kind for kind in kinds if kind not in names), "NoDatasets"]


def test_ray_train_still_asks_workers_for_datasets_by_the_name_that_is_answered() -> None:
    from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

    taken = inspect.signature(RayTrainWorker.init_train_context).parameters
    (callback,) = [
        c
        for c in compat.lean_trainer()(print)._create_default_callbacks()
        if type(c).__name__ == "NoDatasets"
    ]
    answer = callback.before_init_train_context([object(), object()])
    assert answer == {"dataset_shard_provider": [None, None]} and answer.keys() <= taken.keys()


def test_ray_still_starts_its_coordinator_by_one_call() -> None:
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as module
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    name = "get_or_create_autoscaling_coordinator"
    assert getattr(autoscaling_coordinator_client, name) is getattr(module, name)
