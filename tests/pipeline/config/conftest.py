"""Fixtures of the tests of params."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.reading.yaml_file import read_yaml


@pytest.fixture(scope="session")
def values(root: Path) -> dict[str, Any]:
    """What the committed `params.yaml` holds."""
    return read_yaml(root / "params.yaml")
