"""Entry points: their order, and plugins that fail when they are imported."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ddbench.registry.loading import in_load_order, installed_points, load, owner_of


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


def test_entry_points_are_read_again_when_a_distribution_is_added_or_removed(
    site: Path, install_plugin: Callable[[Path, str, str], None]
) -> None:
    before = installed_points("ddbench")
    assert installed_points("ddbench") is before
    install_plugin(site, "ddload-late", "")
    (added,) = set(installed_points("ddbench")) - set(before)
    assert (added.value, owner_of(added)) == ("ddload_late", "ddload-late")
    shutil.rmtree(site / "ddload_late-1.0.dist-info")
    assert installed_points("ddbench") == before


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


def _load_in_a_new_process(site: Path, module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Loads a plugin in a process without torch, then runs `code`."""
    code = (
        "import sys\nfrom importlib import metadata\nfrom ddbench.registry.loading import load\n"
        "import random\ngenerator = random.getstate()\n"
        "assert 'torch' not in sys.modules\nfinders, stdout = list(sys.meta_path), sys.stdout\n"
        f"assert load(metadata.EntryPoint('plugin', '{module}', 'ddbench'), lambda plugin: 7) == 7\n"
        f"assert sys.meta_path == finders and sys.stdout is stdout\n{code}"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)


def test_the_folder_and_the_generator_are_restored_without_torch(site: Path) -> None:
    """Before any import of torch, so that `ddbench list` stays fast."""
    (site / "ddload_plain.py").write_text("import os, random\nos.chdir('/')\nrandom.seed(0)\n")
    done = _load_in_a_new_process(
        site,
        "ddload_plain",
        "import os, random\nassert random.getstate() == generator and 'torch' not in sys.modules\nprint(os.getcwd())",
    )
    assert done.stdout == f"{Path.cwd()}\n"
    assert done.stderr == (
        "ddbench: warning: plugin 'plugin' of an unknown distribution changed the working directory when it was "
        "imported: restored\n"
    )


@pytest.mark.slow
def test_the_folder_is_restored_if_it_is_changed_before_the_import_of_torch(site: Path) -> None:
    (site / "ddload_moves.py").write_text("import os\nos.chdir('/')\nimport torch\nos.chdir('/tmp')\n")
    done = _load_in_a_new_process(site, "ddload_moves", "import os\nprint(os.getcwd())")
    assert done.stdout == f"{Path.cwd()}\n"
    assert "changed the working directory when it was imported: restored" in done.stderr


@pytest.mark.slow
def test_numeric_state_that_an_indirect_import_changes_is_put_back(site: Path) -> None:
    package = site / "ddload_indirect"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import importlib.util\nassert importlib.util.find_spec('torch')\nfrom ddload_indirect.impl import value\n"
    )
    (package / "impl.py").write_text(
        "import torch.nn\ntorch.set_float32_matmul_precision('medium')\ntorch.set_num_threads(3)\nvalue = 3\n"
    )
    done = _load_in_a_new_process(
        site,
        "ddload_indirect",
        "import torch, inspect\nassert inspect.getsource(torch) and torch.__spec__.loader is torch.__loader__\n"
        "assert type(torch.__loader__).__name__ == 'SourceFileLoader'\n"
        "print(torch.get_float32_matmul_precision(), torch.get_num_threads())",
    )
    assert done.stdout == "highest 1\n"
    assert done.stderr == (
        "ddbench: warning: plugin 'plugin' of an unknown distribution changed torch's number of threads, "
        "torch's float32 matmul precision when it was imported: restored\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has no fp32_precision")
def test_precisions_that_an_import_sets_with_the_newer_api_are_put_back(site: Path) -> None:
    (site / "ddload_newer.py").write_text(
        "import torch\ntorch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n"
        "torch.backends.mkldnn.conv.fp32_precision = 'bf16'\n"
    )
    done = _load_in_a_new_process(
        site,
        "ddload_newer",
        "import torch\nmkldnn = torch.backends.mkldnn\nprint(torch.get_float32_matmul_precision(), "
        "mkldnn.matmul.fp32_precision, mkldnn.conv.fp32_precision)",
    )
    assert done.stdout == "highest none none\n"
    assert done.stderr == (
        "ddbench: warning: plugin 'plugin' of an unknown distribution changed torch's float32 matmul precision, "
        "torch's float32 precision of convolutions when it was imported: restored\n"
    )


def test_a_plugin_without_torch_does_not_import_it(site: Path) -> None:
    (site / "ddload_plain.py").write_text("value = 3\n")
    assert _load_in_a_new_process(site, "ddload_plain", "print('torch' in sys.modules)").stdout == "False\n"
