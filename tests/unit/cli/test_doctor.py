"""`ddbench doctor`: what it lists, and that it fails if something is broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ddbench.cli.doctor import doctor_command
from ddbench.registry.registry import PluginRegistry


def doctor(cache: Path, *arguments: str, registry: PluginRegistry | None = None) -> Result:
    registry = registry or PluginRegistry([EntryPoint("datasets", "ddbench.data.registry", "ddbench")])
    return CliRunner().invoke(doctor_command, ["--cache-dir", str(cache), *arguments], obj=registry)


def test_a_sound_machine_is_listed(tmp_path: Path) -> None:
    artifact = tmp_path / "cache" / "teacher" / f"{'0' * 32}.safetensors"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(bytes(3 * 2**20))
    (tmp_path / "data").mkdir()
    outcome = doctor(tmp_path / "cache", "--data-dir", str(tmp_path / "data"))
    assert outcome.exit_code == 0, outcome.output
    facts = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert facts["cache"].startswith(f"{tmp_path / 'cache'}: 1 file, 3.0 MB, ")
    assert facts["data"].startswith(f"{tmp_path / 'data'}: digits")
    assert "thread" in facts["device"]
    assert "torch" in facts["versions"]
    assert facts["plugin"].startswith("an unknown distribution: ")


@pytest.mark.parametrize("broken", ["data", "dataset", "cache", "plugin"])
def test_what_is_broken_is_named(broken: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / ("file/cache" if broken == "cache" else "cache")
    (tmp_path / "data" / "imagenette2-160").mkdir(parents=True)
    data = {"data": tmp_path / "absent", "dataset": tmp_path / "data"}.get(broken, tmp_path)
    module = "ddbench_no_such_module" if broken == "plugin" else "ddbench.data.registry"
    registry = PluginRegistry([EntryPoint("blur", module, "ddbench")])
    outcome = doctor(cache, "--data-dir", str(data), registry=registry)
    assert outcome.exit_code == 1
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("broken")]
    assert line.split(maxsplit=1)[1].startswith(
        {
            "data": f"the data folder {tmp_path / 'absent'} does not exist",
            "dataset": f"dataset imagenette: {tmp_path / 'data' / 'imagenette2-160'} holds no class folders",
            "cache": f"the cache cannot be written: {tmp_path / 'file'}",
            "plugin": "plugin 'blur' of an unknown distribution is left out: ModuleNotFoundError",
        }[broken]
    )
