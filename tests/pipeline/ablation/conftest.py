"""Fixtures of ablations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.ablations import git_identity, trivial_checkout
from tests.helpers.checkouts import Checkout, new_checkout

__all__ = ["git_identity", "new_checkout"]


@pytest.fixture
def checkout(
    new_checkout: Callable[[], Checkout],
    git_identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Checkout:
    """A git checkout with a stage that takes no time."""
    for name, value in git_identity.items():
        monkeypatch.setenv(name, value)
    return trivial_checkout(new_checkout)
