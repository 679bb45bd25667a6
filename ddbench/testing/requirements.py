"""Failures of conformance tests: the requirement, the observation and the fix, each on one line."""

from __future__ import annotations

from typing import NoReturn

import pytest


def fail(requirement: str, observed: str, fix: str) -> NoReturn:
    """Fails the current test.

    Args:
        requirement: The rule that is broken.
        observed: The observation, with names and values.
        fix: What the author can change to meet the requirement.

    Raises:
        pytest.fail.Exception: Always.
    """
    pytest.fail(f"requirement: {requirement}\n  observed: {observed}\n  fix: {fix}", pytrace=False)


def require(condition: bool, requirement: str, observed: str, fix: str) -> None:
    """Fails the current test if a condition is false.

    Args:
        condition: Whether the requirement is met.
        requirement: The rule that is checked.
        observed: The observation, with names and values.
        fix: What the author can change to meet the requirement.

    Raises:
        pytest.fail.Exception: If `condition` is false.
    """
    if not condition:
        fail(requirement, observed, fix)
