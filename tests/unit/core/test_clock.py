"""The clock of stages stands still during imports."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from pathlib import Path

import pytest

from ddbench.core import clock

PAUSE = 0.3


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that takes PAUSE to import, and imports another one that takes as long."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f"import time\ntime.sleep({PAUSE})\n"
    (tmp_path / "ddclock_outer.py").write_text(f"{text}import ddclock_inner\n")
    (tmp_path / "ddclock_inner.py").write_text(text)
    for name in ("ddclock_outer", "ddclock_inner"):
        sys.modules.pop(name, None)
    return "ddclock_outer"


def test_imports_do_not_count_and_work_does(slow_module: str) -> None:
    usual = builtins.__import__
    with clock.running(), clock.running():
        start, real = clock.now(), time.perf_counter()
        __import__(slow_module)
        time.sleep(PAUSE)
        counted, passed = clock.now() - start, time.perf_counter() - real
    assert counted >= PAUSE
    assert counted <= passed - 2 * PAUSE
    assert builtins.__import__ is usual


def test_an_import_that_fails_does_not_count_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ddclock_broken.py").write_text(f"import time\ntime.sleep({PAUSE})\nraise ValueError('broken')\n")
    usual = builtins.__import__
    with clock.running():
        start, real = clock.now(), time.perf_counter()
        with pytest.raises(ValueError, match="broken"):
            __import__("ddclock_broken")
        assert clock.now() - start <= time.perf_counter() - real - PAUSE
    assert builtins.__import__ is usual


def test_an_import_in_another_thread_does_not_stop_the_clock(slow_module: str) -> None:
    with clock.running():
        start = clock.now()
        thread = threading.Thread(target=__import__, args=(slow_module,))
        thread.start()
        thread.join()
        assert clock.now() - start >= 2 * PAUSE
