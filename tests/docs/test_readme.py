"""Checks the documentation: commands of README.md and docs/usage.md run, code works, numbers match the records."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from ddbench.nn.build import build_network
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.frame import build_frame

if TYPE_CHECKING:
    from conftest import Shell
from ddbench.testing.harness import harness_for

ROOT = Path(__file__).parents[2]
REAL = ("imagenette", "tiny-imagenet")


def blocks(path: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """Every command of a page's `sh` blocks, its continued lines joined, comments dropped."""
    lines = "".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def is_quick(command: str) -> bool:
    """Whether a command is run for real: everything but training beyond the smoke sizes."""
    trains = command.startswith(("ddbench run", "ddbench tune")) or "--run" in command
    return command.startswith("ddbench ") and (not trains or "--recipe smoke" in command)


README, USAGE = ROOT / "README.md", ROOT / "docs" / "usage.md"
COMMANDS = list(dict.fromkeys([*commands(README), *commands(USAGE)]))
MAKE = [command for command in COMMANDS if command.startswith("make ")]
INSTALL = [
    command for command in COMMANDS if command.startswith(("pip ", "uv "))
]  # the test of the packages installs them
QUICK = [command for command in COMMANDS if is_quick(command)]
LONG = [command for command in COMMANDS if command.startswith("ddbench ") and not is_quick(command)]
REFERENCE = ROOT / "results" / "reference" / "imagenette-64px"


def output(command: str, shell: Shell) -> str:
    """What a command prints in this process, where all that it imports is there already."""
    outcome = shell(*shlex.split(command)[1:])
    assert outcome.code == 0, f"{command}\n{outcome.out}\n{outcome.err}"
    return outcome.out


def ddbench(command: str, folder: Path, **environment: str) -> str:
    """Runs one command as a person would, in `folder`, with nothing of this person's own; returns its output."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DDBENCH_")}
    own |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "xdg"), "OMP_NUM_THREADS": "1", **environment}
    words = [sys.executable, "-m", "ddbench", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_is_covered() -> None:
    assert COMMANDS
    assert sorted(MAKE + INSTALL + QUICK + LONG) == sorted(COMMANDS)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("command", MAKE)
def test_make_targets(command: str, shell: Shell) -> None:
    """What make would do is shown, not done; the demo's own command is dry-run."""
    words = [*shlex.split(command), "--dry-run", f"--directory={ROOT}"]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(words, env=outer, capture_output=True, text=True, check=True).stdout.splitlines()
    if command == "make test":
        assert any("/pytest " in line for line in shown)
        return
    (run,) = [line for line in shown if "ddbench run" in line]
    told = shell(*shlex.split(run)[1:], "--dry-run").out
    assert re.findall(r"^(\w+) +digits ", told, re.MULTILINE) == [*6 * ["wmdd"], *6 * ["random"]]


@pytest.mark.slow(36)
def test_quick_commands_run(shell: Shell) -> None:
    """Runs the commands in the order of the pages in one folder, because later ones use earlier results."""
    shutil.copytree(REFERENCE, shell.root / REFERENCE.relative_to(ROOT))
    assert QUICK[0].startswith("ddbench run")
    outputs = [output(command, shell) for command in QUICK]
    assert all(text.strip() for text in outputs)
    (shown,) = blocks(README, "text")
    assert shown.splitlines()[0].split() == outputs[0].splitlines()[0].split()
    assert list((shell.results / "records").glob("*.json"))
    assert list((shell.results / "runs").glob("*/preview.png"))
    targets = [shell.root / match[1] for command in QUICK if (match := re.search(r"--output (\S+)", command))]
    assert all(list(path.parent.glob(f"{path.name}*")) for path in targets)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (REFERENCE / "tables").glob("*.md")))
def test_printed_tables_are_those_of_the_records(name: str, shell: Shell) -> None:
    """With the options that results/README.md names."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    (options,) = re.findall(rf"^\| `{name}` \| `(--.*)` \|$", page, re.MULTILINE)
    checkpoint = "teacher.checkpoint=teacher-resnet18-imagenette64.safetensors"
    common = ("--dataset", "imagenette", "--set", checkpoint, "--results-dir", REFERENCE, "--format", "markdown")
    outcome = shell("table", name, *options.split(), *common)
    assert outcome.code == 0, outcome.err
    assert outcome.out == (REFERENCE / "tables" / f"{name}.md").read_text(encoding="utf-8")


def test_readme_method_runs(tmp_path: Path) -> None:
    (code,) = [block for block in blocks(README, "python") if "class " in block]
    module: dict[str, Any] = {"__name__": "readme"}
    exec(code, module)
    harness = harness_for(module["MeanImage"](), tmp_path, "digits", "smoke", 2)
    assert harness.first.digests == harness.rerun_digests()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            command, marks=[pytest.mark.real, pytest.mark.slow] if any(name in command for name in REAL) else []
        )
        for command in LONG
    ],
)
def test_long_commands_are_valid(command: str, shell: Shell) -> None:
    """With `--dry-run`: names, values, recipes and data are checked, nothing is trained."""
    data = os.environ.get("DDBENCH_DATA", "")
    if any(name in command for name in REAL) and not data:
        pytest.skip("needs DDBENCH_DATA, a folder that holds imagenette2/ and tiny-imagenet-200/")
    lay_out_own_files(command, shell.root)
    outcome = shell(*shlex.split(command)[1:], "--dry-run", *(("--data-dir", data) if data else ()))
    assert outcome.code == 0, outcome.err
    assert "to do" in outcome.out
    assert ("settings that are not defaults" in outcome.out) == command.startswith(("ddbench run", "ddbench tune"))


def lay_out_own_files(command: str, folder: Path) -> None:
    """The person's own images, checkpoint and recipe that a command names, in `folder`."""
    if actual := re.search(r"imagefolder:(\S+)", command):
        for split in ("train", "val"):
            for name in ("cat", "dog"):
                place = folder / actual[1] / split / name
                place.mkdir(parents=True)
                for number in range(12):
                    pixels = np.random.default_rng(number).integers(0, 256, (80, 70, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}.png")
    if actual := re.search(r"teacher\.checkpoint=(\S+)", command):
        save_file(build_network("resnet18", 10, 64).state_dict(), folder / actual[1])
    if actual := re.search(r"--recipe (\S+\.yaml)", command):
        (recipe,) = blocks(ROOT / "docs" / "recipes.md", "yaml")
        (folder / actual[1]).write_text(recipe, encoding="utf-8")


def test_the_examples_of_the_tables_page_run_on_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records have hard labels and students without a teacher."""
    load, plugin = blocks(ROOT / "docs" / "tables.md", "python")
    (tmp_path / "results").symlink_to(REFERENCE)
    monkeypatch.chdir(tmp_path)
    exec(load, {"__name__": "tables_page"})
    module = ModuleType("tables_page")
    exec(plugin, vars(module))
    registry = PluginRegistry()
    registry.register(module)
    request = Request(methods=("random", "full"), datasets=("imagenette",), ipcs=(10,))
    frame = build_frame(registry.table("temperature"), request, registry, None, Path("results"))
    measured = frame[frame["state"] == "measured"]
    assert len(measured)
    assert measured.loc[measured["method"] == "random", "gap"].notna().all()


@pytest.mark.slow
def test_the_python_of_the_readme_and_of_its_page_runs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder, in the order of the pages. The class is one of a file: that of a notebook is run in a notebook."""
    monkeypatch.chdir(shell.root)
    monkeypatch.setenv("DDBENCH_CACHE", str(shell.cache))
    codes = [*blocks(README, "python"), *blocks(ROOT / "docs" / "python.md", "python")]
    for number, code in enumerate(code for code in codes if "import ddbench\n" in code):
        path = shell.root / f"example_{number}.py"
        path.write_text(code, encoding="utf-8")
        runpy.run_path(str(path))
    made = {json.loads(path.read_text())["method"] for path in (shell.results / "records").glob("*.json")}
    assert {"kmeans", "random", "grey"} < made


PAGE = ROOT / "docs" / "writing-a-plugin.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the plugin page's package and what an installer writes about it."""
    folder = tmp_path_factory.mktemp("plugin")
    ddbench("ddbench new-plugin blur", folder)
    written = folder / "ddbench-blur"
    (written / "ddbench_blur").rename(folder / "ddbench_blur")
    for block in blocks(PAGE, "python"):
        first_line, text = block.split("\n", 1)
        path = first_line.removeprefix("# ")
        if path.startswith("tests/"):
            assert (written / path).read_text(encoding="utf-8") == text
        else:
            (folder / path).write_text(text, encoding="utf-8")
    project = tomllib.loads((written / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (declared,) = blocks(PAGE, "toml")
    points = tomllib.loads(declared)["project"]["entry-points"]["ddbench"]
    assert project["entry-points"]["ddbench"].items() <= points.items()
    modules = {path.stem for path in (folder / "ddbench_blur").glob("*.py")} - {"__init__"}
    assert set(points.values()) == {"ddbench_blur", *(f"ddbench_blur.{module}" for module in modules)}
    about = folder / f"ddbench_blur-{project['version']}.dist-info"
    about.mkdir()
    lines = [f"{name} = {module}" for name, module in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[ddbench]", *lines, ""]), encoding="utf-8")
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(head, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_plugin_page_runs(installed: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [command for command in commands(PAGE) if command.startswith("ddbench ")]
    told = {}
    for command in shown:
        with monkeypatch.context() as patch:
            if " new-plugin " not in command:  # a new plugin is written where its name is not taken yet
                patch.syspath_prepend(installed)
            told[command] = output(command, shell)
    for name in [name for name in sys.modules if name.startswith("ddbench_blur")]:
        del sys.modules[name]
    assert any("list methods blur" in command and "real images in one" in text for command, text in told.items())
    assert {path.name for path in shell.root.glob("ddbench-*")} == {"ddbench-blur", "ddbench-quiet"}
    actual = [json.loads(path.read_text()) for path in (shell.root / "results" / "records").glob("*.json")]
    made = {(record["method"], record["dataset"], record["evaluator"], record["distilled_images"]) for record in actual}
    assert made == {
        ("blur", "digits", "fkd", 20),
        ("blur", "digits", "plain", 10),
        ("blur", "stripes", "hard", 4),
        ("first", "digits", "hard", 10),
        ("first", "digits", "hard", 20),
        ("first", "digits", "plain", 10),
        ("invert", "digits", "fkd", 10),
    }
    (measured,) = [record["measures"] for record in actual if "measures" in record]
    assert measured["sharpness"]["settings"] == {"distance": 2}
    assert 0 < measured["sharpness"]["values"]["sharpness"] < 1
    settings = [
        (record["method"], record["evaluator"], record["configuration"]["method_settings"]) for record in actual
    ]
    blends = sorted((evaluator, tree["blend"]) for method, evaluator, tree in settings if method == "blur")
    assert blends == [("fkd", 2), ("hard", 4), ("plain", 1), ("plain", 4)]
    assert [tree["steps"] for method, _, tree in settings if method == "invert"] == [20]
    logged = (shell.root / "top1.log").read_text(encoding="utf-8").splitlines()
    assert len(logged) == len(actual)
    assert all(re.fullmatch(r"(blur|first|invert) \S+ \S+ \d+\.\d", line) for line in logged)


@pytest.mark.slow
def test_a_plugin_module_imports_no_torch(installed: Path) -> None:
    modules = [f"ddbench_blur.{path.stem}" for path in (installed / "ddbench_blur").glob("[!_]*.py")]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the documentation site write them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = [heading.lower() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [path.relative_to(ROOT).as_posix() for folder in (".", "docs", "results") for path in ROOT.glob(f"{folder}/*.md")],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        target = path.parent / name if name else path
        assert target.exists(), f"{page} links to {name}"
        assert not anchor or anchor in anchors(target), f"{page} links to {name}#{anchor}"


@pytest.mark.parametrize("folder", [".", "docs", "results"])
def test_pages_have_no_marks_of_a_merge_conflict(folder: str) -> None:
    pages = list((ROOT / folder).glob("*.md"))
    marked = [page.name for page in pages if re.search(r"^[<>]{7} ", page.read_text(encoding="utf-8"), re.MULTILINE)]
    assert pages
    assert marked == []
