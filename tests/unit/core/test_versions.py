"""Every version of the numerics is a text that counts up."""

from ddbench.core import versions


def test_versions_are_numbers_as_text() -> None:
    actual = {name: value for name, value in vars(versions).items() if name.isupper()}
    assert {"MODELS", "VIEWS", "TRAINING", "STATISTICS", "OBJECTIVES", "RECOVER", "TRANSPORT", "LLOYD"} <= actual.keys()
    assert all(isinstance(value, str) and int(value) >= 1 for value in actual.values())
