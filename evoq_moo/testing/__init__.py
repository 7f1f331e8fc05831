"""Conformance checks that any problem, operator or algorithm must pass, ours or a user's."""

__all__ = []
