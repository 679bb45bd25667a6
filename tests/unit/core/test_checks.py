"""Tensors that are not finite are named."""

import re

import pytest
import torch

from ddbench.core.checks import require_finite, require_type
from ddbench.core.errors import DDBenchError


def test_finite_tensors_of_any_kind_pass() -> None:
    tensors = {"float": torch.zeros(2), "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)}
    require_finite("step 1", {**tensors, "none": torch.zeros(0)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_wrong_value_is_enough(value: float) -> None:
    tensor = torch.zeros(3, 4)
    tensor[2, 1] = value
    with pytest.raises(DDBenchError, match=re.escape("step 3: not finite (NaN or infinity): images; try less")):
        require_finite("step 3", {"good": torch.zeros(1), "images": tensor}, "; try less")


def test_three_names_are_shown() -> None:
    wrong = {f"t{number}": torch.tensor(float("nan")) for number in range(5)}
    with pytest.raises(DDBenchError, match=r"t0, t1, t2 and 2 more$"):
        require_finite("here", wrong)


@pytest.mark.parametrize(("value", "kind"), [("10", "str"), (None, "NoneType"), (True, "bool"), (1.0, "float")])
def test_a_wrong_type_is_one_sentence(value: object, kind: str) -> None:
    require_type("load", "ipc", 10, int, "a number")
    with pytest.raises(TypeError, match=re.escape(f"load: ipc is {value!r} ({kind}); pass a number")):
        require_type("load", "ipc", value, int, "a number")
