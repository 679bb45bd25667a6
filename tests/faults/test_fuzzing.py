"""Anything at all as recipe, setting, record or artifact: it is taken for what it is, or refused in one line."""

from __future__ import annotations

import json
import os
import re
import resource
import string
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ddbench.api.evaluator import Metrics
from ddbench.config.experiment import Experiment
from ddbench.config.recipes import SECTIONS
from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.pipeline.keys import Keys
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import records, verified_json
from ddbench.results.records import Record
from ddbench.storage.artifacts import read_tensors, write_tensors

if TYPE_CHECKING:
    from pydantic import BaseModel

CASES = 10_000 if os.environ.get("DDBENCH_FAULTS") == "full" else 500
fuzzed = settings(
    max_examples=CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
REGISTRY = PluginRegistry()
METHODS = [cls.name for cls in REGISTRY.distillers()]
PROTOCOLS = [cls.name for cls in REGISTRY.evaluators()]


def models(method: str, protocol: str) -> dict[str, type[BaseModel]]:
    """The model of each section."""
    core = {name: Experiment.model_fields[name].annotation for name in SECTIONS if name not in ("method", "evaluator")}
    return {**core, "method": REGISTRY.distiller(method), "evaluator": REGISTRY.evaluator(protocol)}  # type: ignore[dict-item]


# -- values ---------------------------------------------------------------------------------------------------

LIKELY = ["resnet18", "auto", "cpu", "fp32", "bilinear", "exact", "adamw", "w.pt", "convnet-d2", "squared", "lloyd"]
NUMBERS = (
    st.integers(-2, 300)
    | st.integers()
    | st.integers(2**62, 2**80)
    | st.floats()
    | st.floats(0, 2)
    | st.sampled_from([10**400, -(10**400), 1e308])
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(LIKELY) | st.text(max_size=20)
TREES: SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | SCALARS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def sections(draw: st.DrawFn, method: str, protocol: str) -> dict[str, Any]:
    """Settings by section, most of them of names that there are."""
    sections_drawn: dict[str, Any] = {}
    for section, model in models(method, protocol).items():
        names = st.sampled_from(sorted(model.model_fields) or ["none"])
        if draw(st.booleans()):
            chosen = draw(st.lists(names, max_size=2, unique=True))
            sections_drawn[section] = {name: draw(value_of(model, name)) for name in chosen}
    return sections_drawn


def value_of(model: type[BaseModel], name: str) -> SearchStrategy[Any]:
    """Values of which many are valid: of the field's kind, its default, or anything."""
    field = model.model_fields.get(name)
    if field is None:
        return TREES
    kind = str(field.annotation)
    near: SearchStrategy[Any] = st.sampled_from(LIKELY) | st.text(max_size=5)
    if "Literal" in kind:
        near = st.sampled_from(re.findall(r"'([^']*)'", kind) or LIKELY)
    elif "bool" in kind:
        near = st.booleans()
    elif "int" in kind:
        near = st.integers(4, 64)
    elif "float" in kind:
        near = st.floats(0.001, 0.9)
    default = st.just(field.default) if isinstance(field.default, int | float | str) else near
    return st.integers(0, 9).flatmap(lambda chance: (SCALARS, default)[min(chance, 1)] if chance < 3 else near)


@st.composite
def recipes(draw: st.DrawFn, method: str, protocol: str) -> Any:
    """A recipe's tree: a valid one, or one with something else in a place."""
    block = {"source": "mine", "applies": {}, "settings": draw(sections(method, protocol))}
    tree: dict[str, Any] = {"name": "mine", "kind": "numerics", "about": "mine", "blocks": [block]}
    if draw(st.integers(0, 3)) == 0:
        place: dict[str, Any] = draw(st.sampled_from([tree, block, block["settings"]]))
        place[draw(st.sampled_from([*place, "else"]) | st.text(max_size=5))] = draw(TREES)
    return draw(st.just(tree) if draw(st.integers(0, 9)) else TREES)


def options_of(method: str, protocol: str, **more: Any) -> dict[str, Any]:
    """The options of a request on digits."""
    given_ipcs = () if method == "full" else (1,)
    evaluator = REGISTRY.distiller(method).default_evaluator if method == "full" else protocol
    grid = {"methods": (method,), "datasets": ("digits",), "ipcs": given_ipcs, "evaluators": (evaluator,)}
    return {**grid, "recipes": ("smoke",), "device": "cpu", "precision": "fp32", **more}


def resolved(**options: Any) -> list[Experiment]:
    """The experiments, or none where the options are refused in one line."""
    try:
        return experiments(Request(**options), REGISTRY)
    except DDBenchError as error:
        assert_one_line(error)
        return []


def assert_one_line(error: DDBenchError) -> None:
    assert str(error).isprintable()
    assert 0 < len(str(error)) <= 1000


# -- a valid one is what its record says ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with a file of weights."""
    folder, before = tmp_path_factory.mktemp("fuzzed"), Path.cwd()
    (folder / "w.pt").write_bytes(b"weights")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def of_record(configuration: dict[str, Any]) -> Experiment:
    """The experiment whose configuration stands in a record."""
    parts = {
        "method_settings": REGISTRY.distiller(configuration["method"])(**configuration["method_settings"]),
        "evaluator_settings": REGISTRY.evaluator(configuration["evaluator"])(**configuration["evaluator_settings"]),
    }
    return Experiment(**{**configuration, **parts})


def comes_back(experiment: Experiment, digits: Dataset) -> bool:
    """Record -> JSON -> Record -> the same experiment, and the same key of its evaluation."""
    metrics = Metrics(top1_last=1, per_class=[1.0], student_steps=1, label_bytes=0, image_bytes=0, regime="hard")
    record = Record(
        name="x",
        created="now",
        method=experiment.method_name,
        method_version="1",
        dataset="digits",
        classes=10,
        ipc=experiment.ipc,
        image_size=experiment.data.image_size,
        recipes=list(experiment.recipes),
        evaluator=experiment.evaluator_name,
        evaluator_version="1",
        student=experiment.student,
        seed=experiment.seed,
        repeat=experiment.repeat,
        student_seed=experiment.student_seed,
        metrics=metrics,
        teacher={},
        feature_transport_cost=None,
        distilled_digest="",
        distilled_images=1,
        keys={},
        configuration=experiment.model_dump(mode="json"),
        seconds={},
        seconds_per_iteration=None,
        peak_memory={},
        device={"type": "cpu", "name": "a CPU", "threads": 1},
        versions={},
        git_commit=None,
    )
    again = Record(**verified_json.load(verified_json.dump(record.model_dump(mode="json"))))
    assert again == record
    back = of_record(again.configuration)
    assert back == experiment
    checkpoint = experiment.teacher.checkpoint
    if checkpoint is None or checkpoint.is_file():
        assert evaluation_key(back, digits) == evaluation_key(experiment, digits)
    return True


def evaluation_key(experiment: Experiment, digits: Dataset) -> str:
    keys = Keys(experiment, digits, experiment.method.version, experiment.evaluator.version)
    return key_of(keys.evaluate((key_of(keys.unit(0)),)))


# -- recipes and settings -------------------------------------------------------------------------------------


def test_any_recipe_is_valid_or_one_line(here: Path, digits: Dataset, tally: Callable[[str], None]) -> None:
    valid: list[bool] = []

    @fuzzed
    @given(st.data(), st.sampled_from(METHODS), st.sampled_from(PROTOCOLS), st.booleans())
    def check(data: st.DataObject, method: str, protocol: str, as_json: bool) -> None:
        tree = data.draw(recipes(method, protocol))
        text = json.dumps(tree) if as_json else yaml.safe_dump(tree, allow_unicode=True)
        Path("mine.yaml").write_text(text, encoding="utf-8", errors="replace")
        actual = resolved(**options_of(method, protocol, recipes=("smoke", "mine.yaml")))
        valid.append(bool(actual) and all(comes_back(one, digits) for one in actual))

    check()
    assert sum(valid) > len(valid) / 10
    tally(f"recipes: {len(valid)} fuzzed, {sum(valid)} valid and the same from their record, the others one line")


@fuzzed
@given(st.binary(max_size=300) | st.text(alphabet="[]{}&*!|>-:?,%@'\"# \n\t0xbeaé", max_size=200).map(str.encode))
@example(b"\x00")
@example(b"? [")
@example(b"%YAML 9.9\n--- x")
@example(b"0x_")
@example(b"1:99999999999999999999:1e99999")
def test_any_bytes_as_a_recipe_are_one_line(here: Path, content: bytes) -> None:
    Path("bytes.yaml").write_bytes(content)
    assert resolved(**options_of("random", "hard", recipes=("smoke", "bytes.yaml"))) == []


SETTABLE = [f"{section}.{name}" for section, model in models("wmdd", "fkd").items() for name in model.model_fields]


@st.composite
def assignments(draw: st.DrawFn) -> str:
    """A valid assignment, one with some letters changed, or any text."""
    name = draw(st.sampled_from(SETTABLE))
    section, _, field = name.partition(".")
    value = draw(value_of(models("wmdd", "fkd")[section], field))
    text = f"{name}={value if isinstance(value, str) else json.dumps(value)}"
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=3) | st.sampled_from("=.:[]{}&*!\n")) + text[place + 1 :]
    return text


def test_any_setting_is_valid_or_one_line(here: Path, digits: Dataset, tally: Callable[[str], None]) -> None:
    valid: list[bool] = []

    @fuzzed
    @given(st.lists(assignments(), min_size=1, max_size=2) | st.lists(st.text(max_size=40), min_size=1, max_size=2))
    @example(["teacher.epochs=2026-99-99"])
    @example(["teacher.arch=\udcff"])
    @example(["teacher.checkpoint=a\0b"])
    @example(["teacher.seed=0x" + "f" * 5000])
    def check(texts: list[str]) -> None:
        actual = resolved(**options_of("wmdd", "fkd", assignments=tuple(texts)))
        valid.append(bool(actual) and all(comes_back(one, digits) for one in actual))

    check()
    assert sum(valid) > len(valid) / 10
    tally(f"--set: {len(valid)} fuzzed, {sum(valid)} valid and the same from their record, the others one line")


WORDS = st.text(max_size=30) | st.sampled_from(
    ["digits", "wmdd", "hard", "smoke", "convnet-d2", "a.yaml", "x/../y.yml"]
)


@fuzzed
@given(
    methods=WORDS,
    datasets=WORDS | WORDS.map("imagefolder:".__add__),
    recipes=WORDS,
    students=WORDS,
    evaluators=WORDS,
    device=WORDS,
    precision=WORDS,
    arch=WORDS | st.none(),
    numbers=st.lists(st.integers() | st.sampled_from([0, 1, 10**400]), min_size=3, max_size=3),
)
def test_any_option_is_valid_or_one_line(here: Path, numbers: list[int], **words: Any) -> None:
    """Also through the Python interface, where no command line has looked at them."""
    named = {name: (words.pop(name),) for name in ("methods", "datasets", "recipes", "students", "evaluators")}
    resolved(ipcs=(numbers[0],), image_size=numbers[1], seed=numbers[2], **named, **words)


# -- artifacts ------------------------------------------------------------------------------------------------


def test_any_damage_of_a_header_is_seen(tmp_path: Path, tally: Callable[[str], None]) -> None:
    """Bytes of the header changed, cut, repeated or put in, and its length: None, or the very same content."""
    path, damaged = tmp_path / "whole.safetensors", tmp_path / "damaged.safetensors"
    tensors = {
        "images": torch.arange(48, dtype=torch.uint8).reshape(4, 12),
        "weights": torch.rand(4),
        "empty": torch.ones(0),
    }
    write_tensors(path, tensors, {"depends_on": {"x": 1}, "meta": {"top1": 50.0}})
    undamaged, content = path.read_bytes(), read_tensors(path)
    assert content is not None
    (length,) = struct.unpack("<Q", undamaged[:8])
    counts = {"seen": 0, "the same": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = st.integers(0, length + 7)
    words = st.sampled_from(
        [b"F32", b"U8", b"BF16", b"F8_E4M3", b"C64", b"I64", b"-1", b"9" * 30, b"[" * 2000, b'"', b"{}"]
    )

    @fuzzed
    @given(
        st.lists(st.tuples(header, st.integers(0, 6), st.binary(max_size=4) | words), max_size=4),
        st.none() | st.integers(0, 2**64 - 1) | st.integers(0, 2 * length),
        st.booleans(),
    )
    @example([], 2**32, False)
    @example([], None, False)
    @example([(8, 0, b" ")], length + 1, True)
    def check(changes: list[tuple[int, int, bytes]], written_length: int | None, fits: bool) -> None:
        """`fits`: the header's length is that of what stands there now."""
        data = undamaged
        for place, gone, new in changes:
            data = data[:place] + new + data[place + gone :]
        if fits and len(data) > 8:
            data = struct.pack("<Q", max(0, length + len(data) - len(undamaged))) + data[8:]
        if written_length is not None and not fits:
            data = struct.pack("<Q", written_length) + data[8:]
        damaged.write_bytes(data)
        reread = read_tensors(damaged)
        if reread is None:
            counts["seen"] += 1
            return
        counts["the same"] += 1
        assert reread[1:] == content[1:]
        assert reread[0].keys() == tensors.keys()
        for name, tensor in reread[0].items():
            assert torch.equal(tensor, tensors[name])
            assert tensor.dtype == tensors[name].dtype

    check()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kilobytes
    assert counts["seen"] > 100
    tally(f"headers: {counts['seen']} damaged ones seen, {counts['the same']} read as the very same content")


def test_any_record_is_the_same_or_one_line(tmp_path: Path, digits: Dataset, tally: Callable[[str], None]) -> None:
    """A record's text with letters changed, put in or left out: its digest shows it."""
    (experiment,) = resolved(**options_of("random", "hard"))
    assert comes_back(experiment, digits)
    path = tmp_path / "x.json"
    undamaged = verified_json.dump(example_record(experiment))
    path.write_text(undamaged)
    sound, counts = records.read(path), {"seen": 0, "the same": 0}

    @fuzzed
    @given(
        st.lists(
            st.tuples(st.integers(0, len(undamaged)), st.integers(0, 5), st.text(string.printable, max_size=4)),
            min_size=1,
            max_size=3,
        )
    )
    def check(changes: list[tuple[int, int, str]]) -> None:
        changed = undamaged
        for place, gone, new in changes:
            changed = changed[:place] + new + changed[place + gone :]
        path.write_text(changed)
        actual = read_or_none(path)
        counts["seen" if actual is None else "the same"] += 1
        # Without a digest it is one of older versions, which tell nothing of changes.
        assert actual in (None, sound) or '"digest"' not in changed

    check()
    tally(f"records: {counts['seen']} changed ones seen, {counts['the same']} read as the very same")


def read_or_none(path: Path) -> Record | None:
    try:
        return records.read(path)
    except DDBenchError as error:
        assert_one_line(error)
        return None


def example_record(experiment: Experiment) -> dict[str, Any]:
    """The values of some record of the experiment."""
    collection = Path(__file__).parents[2] / "results" / "reference" / "imagenette-64px"
    committed = next((collection / "records").glob("random-*.json"))
    tree: dict[str, Any] = json.loads(committed.read_text())
    tree.pop("digest", None)
    return {**tree, "configuration": experiment.model_dump(mode="json")}
