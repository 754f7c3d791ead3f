"""The parts of Ray that are no public API are where `pipeline.runtime.compat` expects them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from kdeov.errors import ConfigError, DataError, KdeovError, StorageError
from pipeline.runtime.compat import RAY_ENVIRONMENT
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
