"""KDEOV's machinery: data, teacher cache, training on Ray, evaluation, report and tracking."""

import os

# Read by Ray, MLflow and onnxruntime at their import, here and in every worker: no telemetry.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_PROMPT_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
