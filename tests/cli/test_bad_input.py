"""Bad input of every kind: one line that says what is wrong, exit code 2, and nothing left behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ddbench.nn.build import build_network

if TYPE_CHECKING:
    from conftest import Outcome, Shell

FAST = ("--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
DIGITS = ("run", "--dataset", "digits", *FAST)
WMDD = (*DIGITS, "--method", "wmdd", "--ipc", "1")
PLAIN = ("run", "--dataset", "digits", "--recipe", "smoke", "--method", "wmdd", "--ipc", "1")
RANDOM = (*DIGITS, "--method", "random", "--ipc", "1")
ABLATION = ("ablation", "--dataset", "digits")
DC = (*DIGITS, "--method", "dc", "--ipc", "1")


def refused_at_once(shell: "Shell", outcome: "Outcome", *message: str) -> None:
    """Refused, and the only line on stderr; neither results nor cache were begun."""
    outcome.refused(*message)
    assert len(outcome.errors) == 1
    assert not shell.results.exists()
    assert not shell.cache.exists() or shell.files("cache") == {}


BAD_COMMANDS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((*DIGITS, "--method", "wmd", "--ipc", "1"), ("unknown method 'wmd'", "did you mean 'wmdd'?")),
    (
        ("run", *FAST, "--dataset", "digit", "--method", "wmdd", "--ipc", "1"),
        ("unknown dataset 'digit'", "mean 'digits'?"),
    ),
    ((*WMDD, "--recipe", "releasd"), ("unknown recipe 'releasd'", "did you mean 'released'?")),
    ((*WMDD, "--recipe", "absent.yaml"), ("no recipe file absent.yaml",)),
    ((*WMDD, "--recipe", "paper"), ("recipe 'paper' has no sizes for dataset 'digits'", "quick, smoke")),
    ((*WMDD, "--cache-dir", "s3:/bucket/here"), ("--cache-dir s3:/bucket/here", "write the URL as s3://bucket/here")),
    ((*WMDD, "--results-dir", "gs:/b"), ("--results-dir gs:/b", "write the URL as gs://b")),
    ((*WMDD, "--data-dir", "s3://bucket/data"), ("--data-dir s3://bucket/data", "a path of this machine is needed")),
    ((*WMDD, "--set", "teacher.checkpoint=https://a.b/c.pth"), ("'https://a.b/c.pth' is a URL, not a path",)),
    ((*WMDD, "--recipe", "https://a.b/c.yaml"), ("recipe 'https://a.b/c.yaml' is a URL", "download it first")),
    (
        ("run", *FAST, "--method", "random", "--ipc", "1", "--dataset", "imagefolder:s3://a/b"),
        ("the image folder 's3://a/b' is a URL",),
    ),
    (("evaluate", "https://a.b/c.pt", "--dataset", "digits", *FAST), ("the set 'https://a.b/c.pt' is a URL",)),
    ((*WMDD, "--evaluator", "fdk"), ("unknown evaluator 'fdk'", "did you mean 'fkd'?")),
    ((*WMDD, "--arch", "resnet19"), ("resnet19", "did you mean")),
    ((*WMDD, "--student", "convnet-bn-d9"), ("convnet-bn-d9", "did you mean 'convnet-bn-d")),
    ((*WMDD, "--student", "convnet-d6"), ("convnet-d6", "64 pixels or more, not 16")),
    ((*WMDD, "--arch", "convnet-d3"), ("this teacher has none", "--set wmdd.bn_weight=0")),
    ((*DC, "--set", "dc.network=convnet-d6"), ("convnet-d6", "64 pixels or more, not 16")),
    ((*DC, "--set", "dc.network=resnet81"), ("resnet81", "did you mean")),
    ((*WMDD, "--set", "teacher.epoch=3"), ("teacher has no setting 'epoch'", "did you mean 'epochs'?")),
    ((*WMDD, "--set", "method.slover=lloyd"), ("method (wmdd) has no setting 'slover'", "did you mean 'solver'?")),
    ((*WMDD, "--set", "wmdd.slover=lloyd"), ("method (wmdd) has no setting 'slover'", "did you mean 'solver'?")),
    ((*WMDD, "--set", "evaluator.epoch=3"), ("evaluator (fkd) has no setting 'epoch'", "did you mean 'epochs'?")),
    ((*WMDD, "--set", "teachr.epochs=3"), ("unknown section 'teachr'", "did you mean 'teacher'?")),
    ((*WMDD, "--set", "wmmd.steps=3"), ("unknown section 'wmmd'", "did you mean 'wmdd'?")),
    ((*WMDD, "--set", "random.steps=3"), ("no --method random",)),
    ((*WMDD, "--set", "teacher.epochs=many"), ("teacher.epochs", "integer", "'many'")),
    ((*WMDD, "--set", "teacher.epochs=1.5"), ("teacher.epochs", "1.5")),
    ((*WMDD, "--set", "teacher.epochs=true"), ("teacher.epochs", "a number is needed")),
    ((*WMDD, "--set", "teacher.epochs="), ("teacher.epochs", "no value")),
    ((*WMDD, "--set", "teacher.epochs=[1, 2]"), ("teacher.epochs", "[1, 2]")),
    ((*WMDD, "--set", "teacher.epochs=0"), ("teacher.epochs", "greater than or equal to 1")),
    ((*WMDD, "--set", "teacher.learning_rate=.inf"), ("teacher.learning_rate", "finite")),
    ((*WMDD, "--set", "method.learning_rate=inf"), ("method.learning_rate", "finite")),
    ((*WMDD, "--set", "evaluator.temperature=.nan"), ("evaluator.temperature",)),
    ((*WMDD, "--set", "teacher.optimizer=lion"), ("teacher.optimizer", "'sgd' or 'adamw'", "'lion'")),
    ((*WMDD, "--set", "data.stored_size=8"), ("data", "stored_size 8 is smaller than image_size 16")),
    ((*WMDD, "--set", "runtime.device=tpu"), ("runtime.device", "'tpu'")),
    ((*WMDD, "--set", "teacher.epochs"), ("teacher.epochs", "write it as section.name=value")),
    ((*WMDD, "--set", "epochs=3"), ("epochs=3", "write it as section.name=value")),
    ((*WMDD, "--set", "teacher.epochs=[3"), ("'[3' is not a plain value",)),
    ((*WMDD, "--set", "teacher.arch=!!python/object:os.system"), ("is not a plain value",)),
    ((*WMDD, "--set", "teacher.epochs=3\nmore"), ("teacher.epochs",)),
    ((*DIGITS, "--method", "wmdd", "--ipc", "0"), ("--ipc 0", "at least 1")),
    ((*DIGITS, "--method", "wmdd", "--ipc", "-3"), ("--ipc -3", "at least 1")),
    ((*DIGITS, "--method", "wmdd"), ("method 'wmdd' needs", "--ipc")),
    ((*WMDD, "--image-size", "2"), ("data.image_size",)),
    ((*PLAIN, "--device", "gpu"), ("runtime.device: write auto, cpu, cuda or cuda:N (got 'gpu')",)),
    ((*PLAIN, "--device", "cuda:99"), ("--device cuda:99", "use --device cpu")),
    ((*WMDD, "--set", "teacher.checkpoint=absent.pt"), ("checkpoint 'absent.pt' does not exist",)),
    ((*RANDOM, "--set", "data.holdout=1.0"), ("ddbench: data.holdout: Input should be less than 1 (got 1.0)",)),
    ((*RANDOM, "--set", "data.holdout=-0.1"), ("data.holdout: Input should be greater than or equal to 0 (got -0.1)",)),
    ((*RANDOM, "--set", "evaluator.measure_at=10"), ("a list such as [1, 2] is needed (got 10)",)),
    ((*RANDOM, "--set", "data.holdout=true"), ("data.holdout: a number is needed (got True)",)),
    (
        (*RANDOM, "--set", "data.holdout=0.999"),
        ("data.holdout 0.999 leaves none of the 142 training images of class '0'; use a smaller share or more",),
    ),
    (
        (*RANDOM, "--evaluator", "dsa", "--student", "convnet-d2", "--set", "evaluator.strategy=crop_flop"),
        ("did you mean 'flip'",),
    ),
    (("run", "--dataset", "imagefolder:", "--method", "full", *FAST), ("needs a path",)),
    (
        ("run", "--dataset", "imagefolder:~no-user/x", "--method", "full", *FAST),
        ("~no-user/x does not exist",),
    ),
    ((*WMDD, "--bogus"), ("No such option '--bogus'",)),
    ((*WMDD, "--seed"), ("'--seed' requires an argument",)),
    ((*WMDD, "--ipc", "ten"), ("'ten' is not a valid integer",)),
    ((*WMDD, "--seed", str(2**63)), ("'--seed': 9223372036854775808 is not in the range",)),
    ((*WMDD, "--set", f"teacher.seed={2**63}"), ("teacher.seed",)),
    ((*WMDD, "--seeds", "0"), ("'--seeds': 0 is not in the range",)),
    ((*PLAIN, "--precision", "fp8"), ("'fp8' is not one of",)),
    ((*WMDD, "--force", "train"), ("unknown stage 'train'; known: backbone, categories, convolutions, data, distill",)),
    (
        (*RANDOM, "--methods", "wmdd", "--ipc", "9999"),
        ("random, digits, IPC 9999, set 0, fkd, ", "seed 0: --ipc 9999 is more than the 142 training images"),
    ),
    (
        (*RANDOM, "--methods", "wmdd", "--ipc", "1", "--set", "wmdd.layer=99"),
        ("wmdd, digits, IPC 1, set 0, fkd, ", "seed 0: there is no layer 99"),
    ),
    ((*DIGITS, "--methods", " , ", "--ipc", "1"), ("--method: there is no value",)),
    ((*WMDD, "--set", "teacher.checkpoint=caf\udce9/x.pt"), ("'caf\\xe9/x.pt' is not UTF-8; rename the file",)),
    ((*WMDD, "--set", "teacher.classes=caf\udce9.txt"), ("'caf\\xe9.txt' is not UTF-8; rename the file",)),
    (
        (*WMDD, "--cache-dir", "caf\udce9"),
        (
            "the cache folder",
            "caf\\xe9 has a name that is not UTF-8; rename it",
        ),
    ),
    ((*WMDD, "--recipe", "caf\udce9/x.yaml"), ("no recipe file caf\\xe9/x.yaml",)),
    ((*RANDOM, "--seed", "1", "--seed", "2"), ("--seed takes one value, and is given 2 times",)),
    ((*RANDOM, "--arch", "resnet18", "--arch", "resnet18"), ("--arch takes one value, and is given 2 times",)),
    ((*RANDOM, "--set", "teacher.epochs=1", "--set", " teacher.epochs =2"), ("--set teacher.epochs is given 2 times",)),
    ((*RANDOM, "--recipe", "smoke"), ("--recipe smoke is given 2 times",)),
    ((*RANDOM, "--ipc", "2,many"), ("'--ipc': 'many' is not a valid integer",)),
    ((*DIGITS, "--method", "random", "--ipc", ","), ("--ipc: there is no value",)),
    ((*RANDOM, "--force", "distill,train"), ("unknown stage 'train'",)),
    (("figure", "grid", "--dataset", "a", "--dataset", "b"), ("--dataset takes one value, and is given 2 times",)),
    (("run",), ("Missing option '--method'",)),
    (("run", "--method", "wmdd"), ("Missing option '--dataset'",)),
    (("rum",), ("No such command 'rum'",)),
    (("list", "method"), ("'method' is not one of",)),
    (("list",), ("Missing argument",)),
    (("list", "methods", "wmd"), ("did you mean 'wmdd'?",)),
    (("show",), ("no records in results/records; start a run first, e.g. ddbench run --method",)),
    (("export", "x"), ("Missing option '--output'",)),
    (("export", "x", "--output", "y"), ("no records in",)),
    (("cache", "prune", "--stage", "teachers"), ("unknown stage 'teachers'; did you mean 'teacher'?",)),
    (("cache", "prune", "--older-than", "-1"), ("'--older-than': -1.0 is not in the range",)),
    (("table", "ablatoin"), ("unknown table 'ablatoin'; did you mean 'ablation'?",)),
    (("table", "comparison", "--methods", "random,wmd"), ("unknown method 'wmd'; did you mean 'wmdd'?",)),
    (("table", "comparison", "--evaluator", "fdk"), ("unknown evaluator 'fdk'; did you mean 'fkd'?",)),
    (
        ("table", "regimes", "--evaluator", "hard"),
        ("--evaluator hard: table 'regimes' sets the protocol of every cell",),
    ),
    (("table", "ablation", "--methods", "random"), ("table 'ablation' has no cells for method random",)),
    (("table", "ablation", "--dataset", "digit"), ("unknown dataset 'digit'; did you mean 'digits'?",)),
    (("table", *ABLATION, "--recipe", "smok"), ("unknown recipe 'smok'; did you mean 'smoke'?",)),
    (("table", *ABLATION, "--set", "method.stepz=3"), ("method (wmdd) has no setting 'stepz'; did",)),
    (("table", "ablation", "--set", "wmdd.steps=none"), ("method.steps (wmdd): ",)),
    (("table", *ABLATION, "--ipc", "0"), ("--ipc 0: images per class must be at least 1",)),
    (
        ("table", "sliced", "--run", "--dataset", "digits", "--ipc", "9999", "--recipe", "smoke"),
        ("ddbench: wmdd, digits, IPC 9999: --ipc 9999 is more than the 142", "(the same for 1 other cell)"),
    ),
    (("table", "ablation", "--run", "--dataset", "imagefolder:/no/such", "--recipe", "smoke"), ("/no/such",)),
    (("table", "efficiency", "--run", "--dataset", "imagefolder:/no/such", "--recipe", "smoke"), ("/no/such", "same")),
    (("table", "ablation", "--run"), ("--run needs data: there is no --dataset, and no dataset in the data folder",)),
    (("table", "ablation", "--format", "yaml"), ("'yaml' is not one of 'text', 'markdown'",)),
    (("table", "ablation", "--output", "file/table.txt"), ("cannot write to file/table.txt: Not a directory",)),
    (("table", "comparison", "--strict"), ("--strict: give --run or --dry-run too",)),
    (("table", "comparison", "--yes"), ("--yes: give --run or --dry-run too",)),
    (("table", *ABLATION, "--dry-run", "--output", "x"), ("--output: --dry-run prints the plan, and makes no table",)),
    (("figure", "barycenter", "--ipc", "1"), ("--ipc",)),
    (("figure", "barycentre"), ("unknown figure 'barycentre'; did you mean 'barycenter'?",)),
    (("report",), ("no records in results/records; start a run first",)),
    (("records",), ("no records in results/records; start a run first",)),
]
"""Command lines that are refused before anything is computed, and parts of the line that says why."""


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=lambda value: " ".join(value)[-40:])
def test_a_bad_command_is_refused_at_once(shell: "Shell", arguments: tuple[str, ...], message: tuple[str, ...]) -> None:
    (shell.root / "file").touch()
    outcome = shell(*arguments)
    outcome.refused(*message)
    # Sizes of images may be in the cache: the check of --ipc needs them.
    assert len(outcome.errors) == 1
    assert {name for name in shell.files() if not name.startswith("cache/data/")} == {"file"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(shell: "Shell") -> None:
    refused_at_once(shell, shell(*PLAIN, "--device", "cuda"), "--device cuda: this machine has 0 usable CUDA devices")


@pytest.mark.parametrize("method", ["wmdd", "random"])
def test_an_ipc_above_the_class_size_is_refused_before_the_teacher_trains(shell: "Shell", method: str) -> None:
    """In a grid, too, where the cell before it could have run."""
    outcome = shell(*DIGITS, "--method", method, "--ipc", "1", "--ipc", "140")
    refused_at_once(shell, outcome, "--ipc 140 is more than the 139 training images of class '8'")
    assert not (shell.cache / "teacher").exists()


# -- folders --------------------------------------------------------------------------------------------------


def own(folder: Path, method: str = "wmdd", ipc: int = 1, *more: str) -> tuple[str, ...]:
    options = ("--method", method, "--ipc", str(ipc), "--arch", "convnet-bn-d3", "--image-size", "8", *more)
    return ("run", "--dataset", f"imagefolder:{folder}", *FAST, *options)


def test_a_missing_folder(shell: "Shell", tmp_path: Path) -> None:
    refused_at_once(shell, shell(*own(tmp_path / "absent")), "absent does not exist", "train/CLASS/")


def test_a_missing_data_folder_of_a_named_dataset(shell: "Shell", tmp_path: Path) -> None:
    options = ("run", "--dataset", "imagenette", "--method", "wmdd", "--ipc", "1", *FAST)
    outcome = shell(*options, "--data-dir", tmp_path / "absent")
    refused_at_once(shell, outcome, "imagenette", "absent does not exist", "--data-dir")


def test_a_folder_without_a_split(shell: "Shell", image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    shutil.rmtree(folder / "val")
    refused_at_once(shell, shell(*own(folder)), "has no validation images (no folder val/", "--set data.split=0.2")
    shutil.rmtree(folder / "train")
    (folder / "val").mkdir()
    refused_at_once(shell, shell(*own(folder)), f"no folder {folder / 'train'}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder(shell: "Shell", image_folder: Callable[..., Path], split: str) -> None:
    folder = image_folder()
    for path in (folder / split / "dog").iterdir():
        path.unlink()
    refused_at_once(shell, shell(*own(folder)), f"{folder / split / 'dog'} holds no images")


@pytest.mark.parametrize(("split", "other"), [("val", "train"), ("train", "val")])
def test_a_class_missing_in_one_split(
    shell: "Shell", image_folder: Callable[..., Path], split: str, other: str
) -> None:
    folder = image_folder()
    shutil.rmtree(folder / split / "dog")
    refused_at_once(shell, shell(*own(folder)), f"class 'dog' is in {other}/ but not in {split}/")


def truncate(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.8])
def test_a_truncated_jpeg_is_named_before_the_teacher_trains(
    shell: "Shell", image_folder: Callable[..., Path], split: str, share: float
) -> None:
    folder = image_folder()
    bad = folder / split / "dog" / "1.jpg"
    truncate(bad, share)
    outcome = shell(*own(folder))
    outcome.refused(f"{bad} cannot be decoded", "--set data.skip_corrupt=true")
    assert {Path(name).parent.name for name in shell.files("cache")} <= {"data"}
    assert not [name for name in shell.files("results") if name.endswith(".json")]


def test_truncated_jpegs_are_skipped_and_counted_on_request(shell: "Shell", image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    truncate(folder / "train" / "dog" / "1.jpg", 0.8)
    truncate(folder / "val" / "cat" / "0.jpg", 0.02)
    skip = ("--set", "data.skip_corrupt=true")
    shell(*own(folder, "random", 4, *skip)).refused("--ipc 4 is more than the 3 training images of class 'dog'")
    outcome = shell(*own(folder, "random", 3, *skip))
    assert outcome.code == 0, outcome.err
    assert "skipped 1 corrupt image of train" in outcome.err
    assert "skipped 1 corrupt image of val" in outcome.err
    assert str(folder / "train" / "dog" / "1.jpg") in outcome.err
    # 3 validation images are left: one cat, two dogs.
    (record,) = (shell.results / "records").iterdir()
    assert '"distilled_images": 6' in record.read_text()


def test_a_class_of_nothing_but_corrupt_images(shell: "Shell", image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    for path in (folder / "train" / "cat").iterdir():
        truncate(path, 0.5)
    shell(*own(folder, "random", 1, "--set", "data.skip_corrupt=true")).refused("class 'cat'", "train")


# -- checkpoints ----------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it makes a folder: what a hostile checkpoint might do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def with_checkpoint(path: Path) -> tuple[str, ...]:
    return (*WMDD, "--set", f"teacher.checkpoint={path}")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_with_another_class_count(shell: "Shell", tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"seven.{suffix}"
    weights = build_network("convnet-bn-d3", 7, 16).state_dict()
    if suffix == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    refused_at_once(shell, shell(*with_checkpoint(path)), "seven", "has 7 classes, the dataset 10")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hostile_checkpoint_runs_nothing(shell: "Shell", tmp_path: Path, wrapped: bool) -> None:
    touched, path = tmp_path / "touched", tmp_path / "hostile.pt"
    torch.save({"state_dict": Payload(touched)} if wrapped else Payload(touched), path)
    refused_at_once(shell, shell(*with_checkpoint(path)), "hostile.pt", "cannot be read as weights")
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the payload is live
    assert touched.is_dir()


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.bin"])
def test_a_checkpoint_that_is_none(shell: "Shell", tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused_at_once(shell, shell(*with_checkpoint(tmp_path / name)), name)
