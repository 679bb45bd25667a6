"""Figures: the same bytes twice, wrapped texts, one thread."""

from pathlib import Path

import matplotlib as mpl
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ddbench.figures import style


def draw(stem: Path) -> list[Path]:
    with style.look():
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot([0, 1], [1, 0], color=style.BLUE)
        assert style.add_caption(figure, "a caption " * 20) > 2
        return style.save(figure, stem)


def test_a_figure_is_the_same_file_twice(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "a"), draw(tmp_path / "deeper" / "b")
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[0].read_text(encoding="utf-8")
    assert "<dc:date>" not in svg
    assert "a caption" in svg


def test_the_users_settings_stay_and_do_not_count() -> None:
    with mpl.rc_context({"font.size": 3}):
        with style.look():
            assert mpl.rcParams["font.size"] == 10
        assert mpl.rcParams["font.size"] == 3


@given(st.text(alphabet="ab \n", max_size=80), st.floats(0.1, 8))
def test_wrapped_text_loses_no_word_and_fits(text: str, inches: float) -> None:
    actual = style.wrapped(text, inches)
    assert "".join(actual.split()) == "".join(text.split())
    assert all(len(line) <= max(8, int(inches / style.LETTER)) for line in actual.split("\n"))


def test_one_thread_in_the_block() -> None:
    before = torch.get_num_threads()
    with style.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_colours_and_markers_repeat_late() -> None:
    count = len(style.COLOURS) * len(style.MARKERS)
    pairs = {(style.COLOURS[n % len(style.COLOURS)], style.MARKERS[n % len(style.MARKERS)]) for n in range(count)}
    assert len(pairs) == count
