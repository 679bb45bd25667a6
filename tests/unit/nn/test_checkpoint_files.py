"""Checkpoint files as people have them: one table of files that load, and one of files that are refused in words."""

import argparse
import gzip
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ddbench.nn.build import build_network
from ddbench.nn.checkpoint_files import class_names, read_checkpoint
from ddbench.nn.checkpoints import load_checkpoint

CLASSES = 4


def network(seed: int = 1, classes: int = CLASSES) -> nn.Module:
    return build_network("convnet-bn-d1", classes, 8, seed=seed)


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return network()


State = dict[str, Tensor]
Save = Callable[[nn.Module, State, Path], None]
Refused = Callable[[Path, nn.Module], str]


def saved(wrap: Callable[[State], object], **options: Any) -> Save:
    return lambda _, state, path: torch.save(wrap(state), path, **options)


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def reference_script(state: State) -> dict[str, Any]:
    """What torchvision's reference scripts, SRe2L and WMDD save."""
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    arguments = argparse.Namespace(lr=0.1, device="cuda", milestones=[30, 60], amp=False)
    return {"model": state, "optimizer": optimizer, "lr_scheduler": {"last_epoch": 9}, "epoch": 9, "args": arguments}


def numpy_numbers(state: State) -> dict[str, Any]:
    numbers = {"epoch": np.int64(3), "best_acc1": np.float64(91.5), "loss": np.float32(0.1), "done": np.bool_(True)}
    return {"state_dict": state, **numbers}


def other_numpy(_: nn.Module, state: State, path: Path) -> None:
    torch.save(numpy_numbers(state), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    names = [b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"]  # of NumPy 2 and 1
    mine, other = names if names[0] in content else names[::-1]
    assert mine in content
    path.write_bytes(content.replace(mine, other))


def in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def averaged(model: nn.Module, state: State, path: Path) -> None:
    """What torchvision's reference script saves as `model_ema` with `--model-ema`."""
    torch.save({"model_ema": AveragedModel(nn.Sequential(OrderedDict(module=model))).state_dict()}, path)


def safetensors(metadata: dict[str, str] | None = None) -> Save:
    return lambda _, state, path: save_file(state, path, metadata)


def converted(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


ROUNDED = {"half precision": 1e-3, "bfloat16": 4e-3, "bfloat16 in safetensors": 4e-3, "float8": 7e-2}
LOADED: dict[str, tuple[str, Save]] = {
    "safetensors": ("a.safetensors", safetensors()),
    "safetensors with a header": ("a.safetensors", safetensors({"format": "pt", "classes": "none"})),
    "safetensors of another suffix": ("pytorch_model.bin", safetensors()),
    "torch.save of another suffix": ("a.safetensors", saved(dict)),
    "a state dict": ("a.pt", saved(dict)),
    "an ordered state dict": ("a.pth", saved(OrderedDict)),
    "the old format of torch.save": ("a.pth", saved(dict, _use_new_zipfile_serialization=False)),
    "model": ("a.pth", saved(lambda s: {"model": s, "epoch": 3})),
    "state_dict": ("a.pth.tar", saved(lambda s: {"state_dict": s, "arch": "resnet18", "best_acc1": 0.9})),
    "net": ("a.t7.pth", saved(lambda s: {"net": s, "acc": 91.2})),
    "model_state_dict": ("a.ckpt", saved(lambda s: {"model_state_dict": s, "optimizer_state_dict": {}})),
    "state_dict_ema": ("a.bin", saved(lambda s: {"state_dict_ema": s})),
    "a network and its moving average": ("a.pth", saved(lambda s: {"model": s, "model_ema": {"w": torch.zeros(1)}})),
    "a teacher beside a student": ("a.pth", saved(lambda s: {"student": {"w": torch.zeros(1)}, "teacher": s})),
    "an averaged model": ("a.pth", averaged),
    "a wrapper in a wrapper": ("a.pth", saved(lambda s: {"model": {"state_dict": s}})),
    "a data-parallel network": ("a.pth", saved(prefixed("module."))),
    "a compiled network": ("a.pth", saved(prefixed("_orig_mod."))),
    "a Lightning checkpoint": ("a.ckpt", saved(lambda s: {"state_dict": prefixed("model.")(s), "global_step": 3})),
    "a Lightning checkpoint with a weighted loss": (
        "a.ckpt",
        saved(lambda s: {"state_dict": {**prefixed("model.")(s), "criterion.weight": torch.ones(CLASSES)}}),
    ),
    "a Lightning checkpoint with a moving average": (
        "a.ckpt",
        saved(lambda s: {"state_dict": {**prefixed("model.")(s), **prefixed("model_ema.module.")(zeros(s))}}),
    ),
    "a data-parallel network in two dicts": (
        "a.pth",
        saved(lambda s: {"model": {"state_dict": prefixed("module.")(s)}}),
    ),
    "both of timm": ("a.pth.tar", saved(lambda s: {"arch": "a", "state_dict": s, "state_dict_ema": zeros(s)})),
    "an empty dict beside": ("a.pth", saved(lambda s: {"model": {}, "state_dict": s})),
    "a description beside": ("a.pth", saved(lambda s: {"model": {"name": "a", "width": 64}, "state_dict": s})),
    "names that are bytes": (
        "a.pth",
        saved(lambda s: {b"state_dict": {name.encode(): tensor for name, tensor in s.items()}}),
    ),
    "without the counters of BatchNorm": (
        "a.pth",
        saved(lambda s: {name: tensor for name, tensor in s.items() if not name.endswith("num_batches_tracked")}),
    ),
    "double precision": ("a.pth", saved(lambda s: {n: t.double() for n, t in s.items()})),
    "a compiled data-parallel network": ("a.pth", saved(prefixed("_orig_mod.module."))),
    "arguments of a reference script": ("a.pth", saved(reference_script)),
    "NumPy numbers": ("a.pth.tar", saved(numpy_numbers)),
    "numbers of another NumPy": ("a.pth", other_numpy),
    "half precision": ("a.pth", saved(converted(torch.half))),
    "bfloat16": ("a.pth", saved(converted(torch.bfloat16))),
    "bfloat16 in safetensors": ("a.safetensors", lambda _, s, path: save_file(converted(torch.bfloat16)(s), path)),
    "float8": ("a.pth", saved(converted(torch.float8_e4m3fn))),
    "parameters": ("a.pth", saved(lambda s: {n: nn.Parameter(t) if "weight" in n else t for n, t in s.items()})),
}


@pytest.mark.parametrize("kind", LOADED)
def test_a_checkpoint_loads(tmp_path: Path, teacher: nn.Module, kind: str) -> None:
    name, save = LOADED[kind]
    state, target = {n: t.clone() for n, t in teacher.state_dict().items()}, network(2)
    save(teacher, state, tmp_path / name)
    load_checkpoint(target, read_checkpoint(tmp_path / name))
    for tensor_name, tensor in target.state_dict().items():
        rounding = ROUNDED.get(kind, 0.0)
        torch.testing.assert_close(tensor, state[tensor_name], rtol=rounding, atol=rounding / 10)


def text(content: str) -> Save:
    return lambda _, state, path: path.write_text(content) and None


def cut(_: nn.Module, state: State, path: Path) -> None:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def script(_: nn.Module, state: State, path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


def content(data: bytes) -> Save:
    return lambda _, state, path: path.write_bytes(data) and None


def zip_of_weights(_: nn.Module, state: State, path: Path) -> None:
    torch.save(state, path.with_suffix(".inner"))
    with zipfile.ZipFile(path, "w") as file:
        file.write(path.with_suffix(".inner"), "model.pth")


def tar_of_weights(_: nn.Module, state: State, path: Path) -> None:
    torch.save(state, path.with_suffix(".inner"))
    with tarfile.open(path, "w") as file:
        file.add(path.with_suffix(".inner"), "model.pth")


def arrays(_: nn.Module, state: State, path: Path) -> None:
    with path.open("wb") as handle:
        np.savez(handle, **{name: tensor.numpy() for name, tensor in state.items()})


def program(_: nn.Module, state: State, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:  # the names that torch.export.save writes
        for name in ("archive_format", "byteorder", "models/model.json", "data/weights/model.pt", "version"):
            file.writestr(f"model/{name}", "pt2")


def quantised(state: State) -> State:
    return {
        n: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8) if t.is_floating_point() else t for n, t in state.items()
    }


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:" + bytes(99)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
REFUSED: dict[str, tuple[str, Save, str]] = {
    "an empty file": ("a.pth", text(""), "it is empty (0 bytes)"),
    "an empty safetensors file": ("a.safetensors", text(""), "it is empty (0 bytes)"),
    "a Git LFS pointer": ("a.pth", text(POINTER), "it is a Git LFS pointer, not the file itself: run 'git lfs pull'"),
    "a pointer to safetensors": ("a.safetensors", text(POINTER), "it is a Git LFS pointer"),
    "a web page": ("a.pth.tar", text(PAGE), "it is a web page (HTML)"),
    "a text": ("a.bin", text("weights"), "it is a file of neither torch.save nor safetensors"),
    "half a file": ("a.pt", cut, "it is damaged, cut short"),
    "half a safetensors file": ("a.safetensors", cut, "it is damaged, cut short"),
    "a network": (
        "a.pt",
        lambda m, s, p: torch.save(m, p),
        "a whole pickled network (ddbench.nn.build.ConvNet)",
    ),
    "an old network": (
        "a.pt",
        lambda m, s, p: torch.save(nn.Sequential(m), p, _use_new_zipfile_serialization=False),
        "a whole pickled network (torch.nn.modules.container.Sequential)",
    ),
    "a network in a dict": ("a.pt", lambda m, s, p: torch.save({"net": m, "acc": 90.0}, p), "a whole pickled network"),
    "a TorchScript program": ("a.pt", script, "it is a TorchScript program"),
    "an object": ("a.pt", saved(lambda s: {"model": s, "path": Path("x")}), "it holds more than tensors (a pathlib."),
    "a NumPy array": ("a.pt", saved(lambda s: {"model": s, "curve": np.zeros(3)}), "more than tensors (a numpy."),
    "no weights": (
        "a.pt",
        saved(lambda s: {"optimizer": {"lr": 1}, "epoch": 3}),
        "holds no state dict of tensors; it holds 'optimizer' (dict), 'epoch' (int): save the weights alone",
    ),
    "an unknown name": ("a.pt", saved(lambda s: {"backbone": s}), "it holds 'backbone' (dict)"),
    "one odd entry": ("a.pt", saved(lambda s: {**s, "note": "text"}), "it holds 'note' (str) and 9 more"),
    "arguments only": ("a.pt", saved(lambda s: argparse.Namespace(a=1)), "it is of the type object"),
    "a list": ("a.pt", saved(lambda s: list(s.values())), "it is of the type list"),
    "a counter only": ("a.pt", saved(lambda s: {"n_averaged": torch.zeros(1)}), "it is missing 'classifier.bias'"),
    "a prefix only": ("a.pt", saved(lambda s: {"module.": torch.zeros(1)}), "it is missing 'classifier.bias'"),
    "a dict in itself": ("a.pt", saved(lambda s: in_itself()), "it holds 'model' (dict): save the weights alone"),
    "a long name": ("a.pt", saved(lambda s: {"x" * 10**5: 1}), "xxx' (int): save the weights alone"),
    "two networks": ("a.pt", saved(lambda s: {"model": s, "teacher": s}), "several state dicts, 'model' and 'teacher'"),
    "two modules": (
        "a.ckpt",
        saved(lambda s: {"state_dict": {**prefixed("model.")(s), **prefixed("teacher.")(s)}}),
        "holds several modules, 'model' and 'teacher': save one of them alone",
    ),
    "an empty dict": ("a.pt", saved(lambda s: {"model": {}}), "it holds 'model' (empty dict)"),
    "names that are numbers": ("a.pt", saved(lambda s: dict(enumerate(s.values()))), "has names of the type int"),
    "integers": (
        "a.pt",
        saved(lambda s: {n: t.to(torch.int8) for n, t in s.items()}),
        "has integers instead of weights in",
    ),
    "integers in safetensors": (
        "a.safetensors",
        lambda _, s, path: save_file({n: t.to(torch.int8) for n, t in s.items()}, path),
        "has integers instead of weights in 'classifier.bias'",
    ),
    "quantised weights": ("a.pt", saved(quantised), "holds 'features.0.weight' (qint8 on cpu)"),
    "sparse weights": (
        "a.pt",
        saved(lambda s: {n: t.to_sparse() for n, t in s.items()}),
        "(float32 on cpu, sparse_coo)",
    ),
    "weights without values": ("a.pt", saved(lambda s: {n: t.to("meta") for n, t in s.items()}), "(float32 on meta)"),
    "NumPy arrays": ("a.pt", saved(lambda s: {n: t.numpy() for n, t in s.items()}), "more than tensors (a numpy."),
    "other classes": (
        "a.pt",
        saved(lambda s: network(classes=7).state_dict()),
        "has 7 classes, the dataset 4; name its classes: --set teacher.classes=FILE",
    ),
    "pickle.dump": ("a.pth", lambda _, s, path: path.write_bytes(pickle.dumps(s)), "was written by pickle.dump"),
    ".npz": ("a.pth", arrays, "it is a file of NumPy arrays (.npz)"),
    ".npy": ("a.bin", content(b"\x93NUMPY\x01\0v\0"), "it is a NumPy array (.npy)"),
    "a zip archive": ("a.pth", zip_of_weights, "it is a zip archive that torch.save did not write: unpack it"),
    "a tar archive": ("a.pth.tar", tar_of_weights, "it is a tar archive: unpack it"),
    "gzip": ("a.pth", content(gzip.compress(b"weights")), "it is a compressed file: unpack it"),
    "an exported program": ("a.pt", program, "it is a program of torch.export"),
    "ONNX": ("a.bin", content(ONNX), "it is an ONNX model"),
    "GGUF": ("a.bin", content(b"GGUF\3\0\0\0" + bytes(99)), "it is a GGUF file"),
    "HDF5": ("a.ckpt", content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "it is an HDF5 file"),
    "an index of files": ("pytorch_model.bin", text('{"weight_map": {"a": "b"}}'), "it is JSON (an index of files"),
    "the answer of a server": ("a.pth", text('{"error": "denied"}'), "it is JSON"),
    "a commented web page": ("a.pth", text("\ufeff<!-- saved from -->"), "it is a web page (HTML)"),
    "a folder": ("a.pth", lambda _, s, path: path.mkdir(), "is a folder: give the file of the weights in it"),
    "a link to itself": ("a.pth", lambda _, s, path: path.symlink_to(path), "is a link that leads to no file"),
    "a link to nothing": ("a.pth", lambda _, s, path: path.symlink_to("b.pth"), "is a link that leads to no file"),
    "no file": ("a.pth", lambda _, s, path: None, "does not exist"),
    "a pipe": ("a.pth", lambda _, s, path: os.mkfifo(path), "is not a file"),
    "another suffix": ("a.h5", saved(dict), "has none of the suffixes .pt .pth .pth.tar .ckpt .bin .safetensors"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_without_weights_is_refused_in_words(
    tmp_path: Path, teacher: nn.Module, refused: Refused, kind: str
) -> None:
    name, save, sentence = REFUSED[kind]
    save(teacher, dict(teacher.state_dict()), tmp_path / name)
    assert sentence in refused(tmp_path / name, network(2))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, (f"import os; os.mkdir({str(self.path)!r})",)


class Disguised:
    """Unpickles as a call of a type that is let through, with a hostile object as its argument."""

    def __init__(self, payload: object) -> None:
        self.payload = payload

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return argparse.Namespace, (self.payload,)


@pytest.mark.parametrize("place", ["beside", "in the arguments", "in the call", "as a dtype"])
def test_types_that_are_let_through_open_no_way_for_others(
    tmp_path: Path, teacher: nn.Module, refused: Refused, place: str
) -> None:
    trace, path = tmp_path / "ran", tmp_path / "hostile.pth"
    payload = Hostile(trace)
    content: dict[str, Any] = {
        "beside": {"args": argparse.Namespace(lr=0.1), "x": payload},
        "in the arguments": {"args": argparse.Namespace(lr=payload)},
        "in the call": {"args": Disguised(payload)},
        "as a dtype": {"x": np.float64(1), "args": [payload]},
    }[place]
    torch.save({"model": teacher.state_dict(), **content}, path)
    assert "holds more than tensors" in refused(path, network(2))
    assert not trace.exists()
    pickle.loads(pickle.dumps(payload))
    assert trace.is_dir()  # the payload works


def test_nothing_is_let_through_after_a_checkpoint_is_read(tmp_path: Path, teacher: nn.Module) -> None:
    path = tmp_path / "a.pth"
    torch.save(reference_script(dict(teacher.state_dict())), path)
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("remarks", "expected"),
    [
        ({"classes": ["b", "a"]}, ("b", "a")),
        ({"class_to_idx": {"a": 1, "b": 0}}, ("b", "a")),
        ({"classes": 2, "class_to_idx": {"a": 0}}, ("a",)),
        ({"class_to_idx": {"a": 0, "b": 0}}, None),
        ({"class_to_idx": {"a": 1, "b": 2}}, None),
        ({"class_to_idx": {"a": False, "b": True}}, None),
        ({"classes": []}, None),
        ({"classes": ["a", 1]}, None),
        ({}, None),
        (["classes"], None),
    ],
)
def test_class_names_are_read_and_remarks_are_not(
    tmp_path: Path, remarks: object, expected: tuple[str, ...] | None
) -> None:
    assert class_names(remarks) == expected
    if isinstance(remarks, Mapping):
        weights = {"weight": torch.zeros(1)}
        torch.save({"model": weights, **remarks}, tmp_path / "a.pt")
        assert read_checkpoint(tmp_path / "a.pt").classes == expected
        save_file(weights, tmp_path / "a.safetensors", {name: json.dumps(value) for name, value in remarks.items()})
        assert read_checkpoint(tmp_path / "a.safetensors").classes == expected
