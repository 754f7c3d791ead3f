"""A job waits until a cluster has machines for it, and says what it waits for."""

from __future__ import annotations

import pytest

from pipeline.config.execution_params import ClusterParams
from pipeline.runtime.room import room_for

HEAD = {"memory": 1e9, "node:10.0.0.1": 1.0}
GPU_NODE = {"CPU": 8.0, "GPU": 2.0}


def test_a_worker_fits_where_all_that_it_needs_is() -> None:
    assert room_for([HEAD], {"CPU": 1}) == 0
    assert room_for([HEAD, {"CPU": 4.0}], {"CPU": 1}) == 4
    assert room_for([HEAD, {"CPU": 4.0}], {"CPU": 1, "GPU": 1}) == 0
    assert room_for([GPU_NODE, GPU_NODE, {"CPU": 64.0}], {"CPU": 1, "GPU": 1}) == 4
    assert room_for([{"CPU": 1.0, "GPU": 4.0}], {"CPU": 1, "GPU": 1}) == 1


def test_the_wait_has_a_bound_that_params_set() -> None:
    assert ClusterParams().node_wait_s == 1800
    assert ClusterParams(node_wait_s=0).node_wait_s == 0
    with pytest.raises(ValueError, match="node_wait_s"):
        ClusterParams(node_wait_s=-1)
