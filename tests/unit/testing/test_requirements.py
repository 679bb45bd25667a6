"""A requirement that is not met fails the test with three facts."""

import pytest

from ddbench.testing.requirements import fail, require


def test_a_failure_names_requirement_observation_and_fix() -> None:
    require(True, "a", "b", "c")
    with pytest.raises(pytest.fail.Exception) as caught:
        require(False, "pixels in [0, 1]", "2.0", "clamp them")
    assert str(caught.value) == "requirement: pixels in [0, 1]\n  observed: 2.0\n  fix: clamp them"
    with pytest.raises(pytest.fail.Exception, match="fix: c"):
        fail("a", "b", "c")
