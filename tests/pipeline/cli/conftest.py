"""Fixtures of the command line's tests."""

from __future__ import annotations

from tests.helpers.checkouts import new_checkout

__all__ = ["new_checkout"]
