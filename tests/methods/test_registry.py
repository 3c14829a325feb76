from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import pytest

from autoprune.errors import ConfigError, PluginError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.criteria import L1, Fpgm, Taylor
from autoprune.methods.registry import described_methods, make_method
from autoprune.plugins import resolve_attribute


@dataclass(frozen=True)
class Sample:
    """One option of each kind."""

    source: ClassVar[str] = "a test"
    trains: ClassVar[bool] = False

    share: float = 0.5
    count: int = 3
    mode: str = "soft"
    as_published: bool = False

    def prune(self, subject: Subject) -> Pruned:
        raise NotImplementedError


@dataclass(frozen=True)
class Demanding(Sample):
    """An option without a default."""

    budget: float = field(kw_only=True)


class Plain:
    """No dataclass."""


number = 5
SAMPLE = "tests.methods.test_registry:Sample"


def test_a_short_name_gives_the_method_with_its_own_defaults():
    assert make_method("l1") == L1()
    assert make_method("taylor", {}) == Taylor()


def test_a_path_gives_a_class_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert make_method("autoprune.methods.criteria:Fpgm") == Fpgm()
    (tmp_path / "method_of_ones_own.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n    depth: int = 2\n    as_published: bool = False\n\n"
        "    def prune(self, subject):\n        raise NotImplementedError\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert make_method("method_of_ones_own:Mine", {"depth": "7"}).depth == 7
    finally:
        sys.modules.pop("method_of_ones_own", None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"share": "0.25"}, Sample(share=0.25)),
        ({"share": "1e-3"}, Sample(share=1e-3)),
        ({"share": 1}, Sample(share=1.0)),
        ({"count": "12"}, Sample(count=12)),
        ({"mode": "12"}, Sample(mode="12")),
        ({"as_published": "true"}, Sample(as_published=True)),
        ({"as_published": "False"}, Sample(as_published=False)),
        ({"as_published": True, "count": 4}, Sample(count=4, as_published=True)),
    ],
)
def test_texts_are_read_as_the_kind_of_the_default(options, expected):
    found = make_method(SAMPLE, options)
    assert found == expected
    for option in fields(found):
        assert type(getattr(found, option.name)) is type(option.default)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown method 'eprun'\. Did you mean 'eprune'\?"):
        make_method("eprun")
    with pytest.raises(ConfigError, match=r"Known: .*taylor"):
        make_method("zzzzzz")


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'l1' has no option 'alocation'\. Did you mean 'allocation'\?"):
        make_method("l1", {"alocation": "global"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": "half"}, r"'share' of the method .* is 'half'\. Write a number"),
        ({"count": "2.5"}, r"'count' of the method .* is '2\.5'\. Write an integer"),
        ({"as_published": "yes"}, r"'as_published' of the method .* is 'yes'\. Write true or false"),
        ({"count": 2.5}, r"'count' of the method .* is 2\.5, but must be of the kind of 3"),
        ({"share": None}, r"'share' .* is None, but must be of the kind of 0\.5"),
        ({"mode": 3}, r"'mode' .* is 3, but must be of the kind of 'soft'"),
        ({"share": [0.5]}, r"'share' .* must be of the kind of 0\.5"),
        ({"as_published": 1}, r"'as_published' .* is 1, but must be of the kind of False"),
        ({"count": True}, r"'count' .* is True, but must be of the kind of 3"),
        ({"share": True}, r"'share' .* is True, but must be of the kind of 0\.5"),
        ({"share": "nan"}, r"'share' .* is 'nan'\. Write a finite number"),
        ({"share": float("inf")}, r"'share' .* is inf\. Write a finite number"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_option_and_the_value(options, message):
    with pytest.raises(ConfigError, match=message):
        make_method(SAMPLE, options)


def test_what_is_no_method_is_refused():
    for name in ("Plain", "number", "pytest"):
        with pytest.raises(ConfigError, match="is no method: it must be a dataclass"):
            make_method(f"tests.methods.test_registry:{name}")
    with pytest.raises(ConfigError, match="is no method"):
        make_method("autoprune.core.structure:PrunableGroup")
    with pytest.raises(ConfigError, match="needs a default for its option 'budget'"):
        make_method("tests.methods.test_registry:Demanding")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("autoprune.methods.criteria:L3", "has no attribute 'L3'"),
        ("autoprune.methods.no_such_file:Thing", "No module"),
        ("a/b:c", "package.module:attribute"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(name, message):
    with pytest.raises(PluginError, match=message):
        make_method(name)


@pytest.mark.parametrize("name", [entry["name"] for entry in described_methods()])
def test_every_method_keeps_to_the_seam(name):
    method = make_method(name)
    kind = type(method)
    assert kind.source
    assert isinstance(kind.trains, bool)
    assert method.as_published is False
    assert kind.__dataclass_params__.frozen
    # `--option key=value` can set what has a default of a plain type, and nothing else.
    assert all(isinstance(option.default, bool | int | float | str) for option in fields(kind))
    assert resolve_attribute(f"{kind.__module__}:{kind.__qualname__}") is kind
    texts = {option.name: str(option.default) for option in fields(kind)}
    assert make_method(name, texts) == method
