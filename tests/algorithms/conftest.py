"""Fixtures shared with the baselines."""

from tests.baselines.conftest import make  # noqa: F401
