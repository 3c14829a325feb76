from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.errors import PluginError
from autoprune.plugins import call_factory, is_plugin, resolve_attribute


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "plugin_under_test"
    (tmp_path / f"{name}.py").write_text(
        "class Outer:\n    inner = 7\n"
        "def make(): return 'made'\n"
        "def sized(num_classes=10): return num_classes\n"
        "def broken(): raise RuntimeError('no luck\\nsecond line')\n"
        "def leaving(): raise SystemExit(3)\n"
        "number = 3\n"
    )
    (tmp_path / "plugin_with_bad_import.py").write_text("import a_module_that_is_nowhere\n")
    (tmp_path / "plugin_with_syntax_error.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield name
    sys.modules.pop(name, None)


def test_an_attribute_of_a_module_in_the_working_directory_is_found(module: str) -> None:
    assert resolve_attribute(f"{module}:make")() == "made"


def test_an_attribute_of_an_attribute_is_found(module: str) -> None:
    assert resolve_attribute(f"{module}:Outer.inner") == 7


@pytest.mark.parametrize("spec", ["torch", "a/b:c", ":x", "a:", "a.:b"])
def test_a_name_of_another_form_is_refused(spec: str) -> None:
    assert not is_plugin(spec)
    with pytest.raises(PluginError, match=r"package\.module:attribute"):
        resolve_attribute(spec)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(PluginError, match="No module 'nowhere_at_all' is found"):
        resolve_attribute("nowhere_at_all.inner:make")


def test_a_missing_attribute_names_the_nearest(module: str) -> None:
    with pytest.raises(PluginError, match=r"no attribute 'mak'.*Did you mean 'make'"):
        resolve_attribute(f"{module}:mak")


def test_a_module_that_cannot_be_imported_says_why(module: str) -> None:
    with pytest.raises(PluginError, match=r"Importing 'plugin_with_bad_import'.*a_module_that_is_nowhere"):
        resolve_attribute("plugin_with_bad_import:make")
    with pytest.raises(PluginError, match="SyntaxError"):
        resolve_attribute("plugin_with_syntax_error:make")


def test_a_factory_gets_only_the_arguments_it_takes(module: str) -> None:
    assert call_factory(f"{module}:sized", optional={"num_classes": 3, "other": 1}) == 3
    assert call_factory(f"{module}:make", optional={"num_classes": 3}) == "made"


def test_a_factory_that_raises_is_one_line(module: str) -> None:
    with pytest.raises(PluginError, match=r"RuntimeError: no luck$") as caught:
        call_factory(f"{module}:broken")
    assert "\n" not in str(caught.value)


def test_a_factory_that_ends_the_process_does_not(module: str) -> None:
    with pytest.raises(PluginError, match=r"Calling 'plugin_under_test:leaving' failed: SystemExit: 3$"):
        call_factory(f"{module}:leaving")


def test_a_value_cannot_be_called(module: str) -> None:
    with pytest.raises(PluginError, match="is a int, not a function"):
        call_factory(f"{module}:number")
