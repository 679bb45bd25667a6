"""The source of a plugin's item: which edits change its digest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ddbench.methods.random import Random
from ddbench.registry import source
from ddbench.registry.source import Source, source_of

CODE = '"""A module."""\n\nclass Method:\n    """A method."""\n\n    def distill(self):\n        return {value}\n'


def digest(folder: Path, name: str) -> str:
    sys.modules.pop(name, None)
    source._digest.cache_clear()
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    actual = source_of(module.Method, "ddbench-x")
    assert actual.distribution == "ddbench-x"
    return actual.digest


def test_what_is_computed_changes_the_digest_and_comments_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "plugin_of_one_file.py"
    file.write_text(CODE.format(value=1))
    first = digest(tmp_path, file.stem)
    file.write_text(CODE.format(value=1).replace("A method.", "Another text.").replace("return 1", "return 1  # one"))
    assert digest(tmp_path, file.stem) == first != ""
    file.write_text(CODE.format(value=2))
    assert digest(tmp_path, file.stem) != first


@pytest.mark.parametrize("place", ["plain", "tests"])
def test_every_module_of_a_package_counts_but_not_its_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever the package is, also below a folder `tests`."""
    monkeypatch.syspath_prepend(str(tmp_path / place))
    package = tmp_path / place / "plugin_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(CODE.format(value=1))
    (package / "numerics.py").write_text("x = 1\n")
    first = digest(tmp_path, package.name)
    (package / "tests" / "test_x.py").write_text("assert True is True\n")
    assert digest(tmp_path, package.name) == first
    (package / "numerics.py").write_text("x = 2\n")
    assert digest(tmp_path, package.name) != first


def test_other_folders_of_a_namespace_package_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on the order and content of `sys.path`."""
    module = tmp_path / "first" / "namespace_of_many" / "method.py"
    module.parent.mkdir(parents=True)
    module.write_text(CODE.format(value=1))
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    first = digest(tmp_path, "namespace_of_many.method")
    other = tmp_path / "second" / "namespace_of_many" / "other.py"
    other.parent.mkdir(parents=True)
    other.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))
    sys.modules.pop("namespace_of_many")
    assert digest(tmp_path, "namespace_of_many.method") == first
    module.write_text(CODE.format(value=2))
    assert digest(tmp_path, "namespace_of_many.method") != first


def test_an_edited_base_class_of_another_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "plugin_that_inherits.py").write_text("import base_package\nclass Method(base_package.Method): pass\n")
    digests = []
    for value in (1, 2):
        (tmp_path / "base_package.py").write_text(CODE.format(value=value))
        sys.modules.pop("base_package", None)
        digests.append(digest(tmp_path, "plugin_that_inherits"))
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "head",
    [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\n# caf\xe9\n"],
    ids=["byte order mark", "latin-1"],
)
def test_an_edit_counts_in_every_encoding(head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "plugin_in_an_encoding.py"
    digests = []
    for value in (1, 2):
        file.write_bytes(head + CODE.format(value=value).encode())
        digests.append(digest(tmp_path, file.stem))
    assert digests[0] != digests[1]


def test_the_text_is_that_of_python_3_11_on_every_version() -> None:
    function = (
        "FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='self')], kwonlyargs=[], kw_defaults=[], "
        "defaults=[]), body=[Pass()], decorator_list=[])"
    )
    assert source.normalised("class A:\n    def f(self): pass") == (
        f"Module(body=[ClassDef(name='A', bases=[], keywords=[], body=[{function}], decorator_list=[])], "
        "type_ignores=[])"
    )


def test_texts_that_are_only_printed_do_not_count() -> None:
    """They are literal texts of a class."""
    plain = source.normalised("class A: x = 1")
    assert source.normalised("class A:\n    summary = 'one ' 'two'\n    cost = 'steps'\n    x = 1") == plain
    assert source.normalised("class A:\n    summary = text()\n    x = 1") != plain
    assert source.normalised("class A:\n    summary = x = 1") != plain
    assert source.normalised("class A: cost = ''") == source.normalised("class A: pass")
    assert source.normalised("cost = 'steps'\nclass A: x = 1") != plain


def test_the_core_and_code_without_a_file_have_no_digest() -> None:
    assert source_of(Random, "ddbench") == Source("ddbench", "")
    typed = type("Method", (), {"__module__": "no_such_module"})
    assert source_of(typed, "ddbench-x") == Source("ddbench-x", "")
