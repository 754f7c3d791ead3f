"""Fixtures of the end-to-end tests."""

from conftest_end_to_end import new_checkout, reproduced
from mlflow_servers import mlflow_server

__all__ = ["mlflow_server", "new_checkout", "reproduced"]
