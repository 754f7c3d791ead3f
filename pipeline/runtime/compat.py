"""Parts of Ray that are no public API, as read in Ray 2.60.

`tests/pipeline/runtime/test_compat.py` fails where another version of Ray lacks one of them.
"""

from __future__ import annotations

PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # the default; set, so that Ray does not warn of it
    # Ray watches preemption and exports state for its dashboard: seconds at start-up for nobody
    PREEMPTION: "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
"""Variables that Ray reads when it is imported. Few are documented: they stand in
`ray.train.constants` and `ray.train.v2._internal.constants`."""
