"""Entry points: their order, and plugins that fail when they are imported."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ddbench.registry.loading import in_load_order, load, owner_of


def point(name: str, value: str, owner: str | None = None) -> metadata.EntryPoint:
    actual = metadata.EntryPoint(name, value, "ddbench")
    if owner is None:
        return actual
    dist = metadata.distribution(owner)
    return actual._for(dist)  # type: ignore[attr-defined, no-any-return]


def test_the_core_comes_first() -> None:
    points = [point("b", "x", "pytest"), point("a", "x", "pytest"), point("z", "x", "ddbench"), point("c", "x")]
    assert [each.name for each in in_load_order(points)] == ["z", "c", "a", "b"]
    assert [owner_of(each) for each in points[2:]] == ["ddbench", "an unknown distribution"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_plugin_is_inspected_and_its_output_is_no_result(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "ddload_good.py").write_text("print('hello')\nvalue = 3\n")
    seen: list[object] = []
    assert load(point("good", "ddload_good"), lambda plugin: seen.append(plugin) or 7) == 7
    assert isinstance(seen[0], ModuleType)
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize("source", ["raise ValueError('no')", "raise SystemExit(3)", "import absent_module", "x ="])
def test_a_plugin_that_fails_is_left_out_with_a_warning(
    site: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"ddload_bad_{abs(hash(source))}"
    (site / f"{name}.py").write_text(source)
    assert load(point("bad", name), lambda plugin: 7) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ddbench: warning: plugin 'bad' of an unknown distribution is left out: ")


def test_torchs_default_dtype_is_put_back(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "ddload_double.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\n")
    assert load(point("double", "ddload_double"), lambda plugin: 7) == 7
    assert torch.get_default_dtype() is torch.float32
    assert "changed torch's default dtype" in capsys.readouterr().err
    sys.modules.pop("ddload_double")


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["torch imported by the plugin", "torch imported before"])
def test_numeric_state_that_an_import_changes_is_put_back(site: Path, first: bool) -> None:
    """In a new process, because a plugin's import of torch is its first only there."""
    (site / "ddload_modes.py").write_text(
        "import torch\ntorch.set_float32_matmul_precision('medium')\ntorch.set_num_threads(3)\n"
        "torch.backends.mkldnn.set_flags(False)\ntorch.use_deterministic_algorithms(True)\n"
    )
    code = (
        f"{'' if first else 'import torch'}\n"
        "from importlib import metadata\nfrom ddbench.registry.loading import load\n"
        "assert load(metadata.EntryPoint('modes', 'ddload_modes', 'ddbench'), lambda plugin: 7) == 7\n"
        "import torch\nprint(torch.get_float32_matmul_precision(), torch.get_num_threads(), "
        "torch._C._get_mkldnn_enabled(), torch.are_deterministic_algorithms_enabled())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "highest 1 True False\n"
    for name in ("float32 matmul precision", "number of threads", "oneDNN kernels", "deterministic algorithms"):
        assert name in done.stderr
    assert done.stderr.count("\n") == 1
