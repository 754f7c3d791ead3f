"""Fixtures of the end-to-end tests."""

from conftest_end_to_end import new_checkout, reproduced

__all__ = ["new_checkout", "reproduced"]
