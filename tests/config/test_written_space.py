from __future__ import annotations

import pytest

from autoprune.config.spaces import apply_rules, load_search_space
from autoprune.config.written_space import exactly, space_text
from autoprune.core.structure import PrunableGroup
from autoprune.errors import ConfigError

GROUPS = (PrunableGroup("stem", 64, coupled=True), PrunableGroup("layer1.0.conv1", 20))


def written(tmp_path, groups=GROUPS, **changes):
    arguments = {"members": [[group.name] for group in groups], "frozen": {}, "scope": "internal", **changes}
    text = space_text("mine:make", groups, **arguments)
    path = tmp_path / "space.toml"
    path.write_text(text, encoding="utf-8")
    return load_search_space(path), text


def test_what_is_written_loads_with_the_limits_that_its_comments_show(tmp_path):
    rules, text = written(tmp_path, multiple_of=8)
    assert rules.scope == "internal"
    assert rules.models == ("mine:make",)
    assert [group.legal_widths[0] for group in apply_rules(GROUPS, rules)] == [8, 8]
    assert "#     stem               64      8  (coupled)\n#     layer1.0.conv1     20      8\n" in text


def test_the_rule_that_it_shows_as_an_example_works(tmp_path):
    _, text = written(tmp_path)
    head, _, rule = text.partition("# [[rule]]")
    (tmp_path / "edited.toml").write_text(head + "[[rule]]" + rule.replace("# ", ""))
    limited = apply_rules(GROUPS, load_search_space(tmp_path / "edited.toml"))
    assert [group.min_width for group in limited] == [4, 1]


def test_what_is_never_cut_stands_there_with_the_reason(tmp_path):
    rules, text = written(tmp_path, frozen={"fc": "network output", "a.b": "cat mixes it\nwith positions"})
    assert "#     fc     network output\n#     a.b    cat mixes it with positions\n" in text
    assert apply_rules(GROUPS, rules)


@pytest.mark.parametrize("name", ["blocks[0]*", 'say "hi"', "back\\slash", "tab\tand\nline", "größe", "\x7f"])
def test_any_name_of_a_layer_is_only_a_name(tmp_path, name):
    groups = (PrunableGroup(name, 8), PrunableGroup("blocks0x", 8))
    rules, text = written(tmp_path, groups)
    assert apply_rules(groups, rules)
    if name.isprintable():
        edited = text.replace("frozen = []", text[text.index("frozen = [") :].partition("].\n")[0] + "]")
        (tmp_path / "edited.toml").write_text(edited, encoding="utf-8")
        limited = apply_rules(groups, load_search_space(tmp_path / "edited.toml"))
        assert [group.min_width for group in limited] == [8, 1]


def test_a_pattern_matches_its_name_only(tmp_path):
    (tmp_path / "space.toml").write_text(f'frozen = ["{exactly("a[1]")}"]')
    rules = load_search_space(tmp_path / "space.toml")
    assert apply_rules((PrunableGroup("a[1]", 4),), rules)[0].min_width == 4
    with pytest.raises(ConfigError, match="matches no prunable group"):
        apply_rules((PrunableGroup("a1", 4),), rules)
