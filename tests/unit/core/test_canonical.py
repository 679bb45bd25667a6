"""Keys of values: equal for equal values in any order."""

import pytest

from ddbench.core.canonical import canonical_json, key_of


def test_keys_are_of_values_not_of_their_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1}) != key_of({"a": 1, "b": [2, 1]})
    assert len(key_of({})) == 32
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
