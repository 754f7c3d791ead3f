"""Names that MLflow reads but does not document. Read in MLflow 3.17.2.

`tests/pipeline/tracking/test_compat.py` compares them with the installed MLflow.
"""

from __future__ import annotations

DATASET_CONTEXT_TAG = "mlflow.data.context"
"""Tag of a logged data set: what the run used it for, such as `training`."""

DESCRIPTION_TAG = "mlflow.note.content"
"""Tag of a run with its description, in Markdown."""

SOURCE_NAME_TAG = "mlflow.source.name"
"""Tag of a run with the script that made it."""

VIEW = "workflowType=machine_learning"
"""Query of a page's address. Without it, the page opens on its GenAI side, which is empty."""

JOB_EXECUTION_VARIABLE = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
"""Environment variable: whether `mlflow server` starts processes for background jobs."""
