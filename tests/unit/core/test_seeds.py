"""Seeds depend on the names of a draw alone."""

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.core import seeds

NAMES = st.lists(st.one_of(st.integers(), st.text(alphabet="abc/ 0123", max_size=5)), min_size=1, max_size=4)


@given(NAMES)
def test_a_seed_is_that_of_its_definition_and_fits_a_generator(names: list[str | int]) -> None:
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    seed = seeds.derive(*names)
    assert seed == int.from_bytes(digest[:8], "little") // 2
    assert 0 <= seed < 2**63
    assert seeds.generator(*names).initial_seed() == seed


def test_parts_of_a_name_do_not_run_together() -> None:
    assert len({seeds.derive("a", "bc"), seeds.derive("ab", "c"), seeds.derive("abc"), seeds.derive("bc", "a")}) == 4


def test_a_generator_draws_the_same_again_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, second = (torch.rand(5, generator=seeds.generator("noise", 7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(5, generator=seeds.generator("noise", 8)))
    assert torch.equal(before, torch.get_rng_state())
