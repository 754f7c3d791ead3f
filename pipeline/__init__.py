"""KDEOV's machinery: data, teacher cache, training on Ray, evaluation, report and tracking."""

import os

# Read by Ray, MLflow and onnxruntime at their import, here and in every worker: no telemetry.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_PROMPT_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Read by torch's threads at its import: they sleep while they wait for each other. Spinning, which
# is the default, made training on two threads 3 to 14 times slower beside another busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
