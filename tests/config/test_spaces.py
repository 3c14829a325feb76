from __future__ import annotations

import pytest

from autoprune.config.resources import resource_names
from autoprune.config.spaces import GroupRule, SearchSpaceRules, apply_rules, load_search_space
from autoprune.core.structure import PrunableGroup
from autoprune.errors import ConfigError

GROUPS = (
    PrunableGroup("layer1.0.conv1", 16),
    PrunableGroup("layer2.0.conv1", 32, coupled=True),
    PrunableGroup("layer3.0.conv1", 64),
)


def written(tmp_path, text):
    path = tmp_path / "space.toml"
    path.write_text(text)
    return path


def applied(tmp_path, text):
    return apply_rules(GROUPS, load_search_space(written(tmp_path, text)))


@pytest.mark.parametrize("name", resource_names("search_spaces"))
def test_every_shipped_search_space_loads(name):
    assert load_search_space(name).scope == "coupled"


def test_the_shipped_names():
    assert {"cifar-resnet", "cifar-vgg16", "default"} <= set(resource_names("search_spaces"))


def test_the_resnet_space_fits_the_groups_of_a_resnet():
    groups = apply_rules(GROUPS, load_search_space("cifar-resnet"))
    assert [group.min_width for group in groups] == [2, 2, 3]


def test_a_file_without_limits_changes_nothing_and_one_that_says_nothing_is_refused(tmp_path):
    assert applied(tmp_path, "format = 1\n") == GROUPS
    for text in ("", "# all of it is a comment\n"):
        with pytest.raises(ConfigError, match=r"\.toml says nothing: it holds no key\. "):
            applied(tmp_path, text)


def test_groups_keep_their_order_names_widths_and_coupling(tmp_path):
    groups = applied(tmp_path, 'min_retain = 0.3\nmultiple_of = 4\nfrozen = ["layer3.*"]\n')
    assert [(group.name, group.width, group.coupled) for group in groups] == [
        (group.name, group.width, group.coupled) for group in GROUPS
    ]


def test_the_last_rule_that_names_a_limit_wins_whatever_it_counts_the_least_width_in(tmp_path):
    text = """
min_retain = 0.5
[[rule]]
match = "layer*"
min_width = 3
multiple_of = 2
[[rule]]
match = "layer2.*"
min_width = 8
"""
    groups = applied(tmp_path, text)
    assert [(group.min_width, group.multiple_of) for group in groups] == [(3, 2), (8, 2), (3, 2)]


def test_a_rule_that_names_both_means_the_larger(tmp_path):
    groups = applied(tmp_path, "min_retain = 0.25\nmin_width = 6\n")
    assert [group.min_width for group in groups] == [6, 8, 16]


def test_the_smallest_share_is_rounded_up(tmp_path):
    assert [group.min_width for group in applied(tmp_path, "min_retain = 0.1\n")] == [2, 4, 7]


def test_a_group_narrower_than_the_minimum_keeps_all_of_its_channels(tmp_path):
    assert applied(tmp_path, '[[rule]]\nmatch = "*"\nmin_width = 20\n')[0].legal_widths == (16,)


def test_a_frozen_group_has_one_legal_width(tmp_path):
    groups = applied(tmp_path, 'multiple_of = 3\nfrozen = ["layer2.*"]\n')
    assert groups[1].legal_widths == (32,)
    assert len(groups[0].legal_widths) > 1


@pytest.mark.parametrize("text", ['frozen = ["layr1.*"]', '[[rule]]\nmatch = "layer4.*"\nmin_width = 2'])
def test_a_pattern_that_matches_nothing_is_an_error(tmp_path, text):
    with pytest.raises(ConfigError, match="matches no prunable group"):
        applied(tmp_path, text + "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('scope = "inside"', "unknown scope 'inside'"),
        ("min_retian = 0.1", "Did you mean 'min_retain'"),
        ("min_retain = 0", r"does not lie in \(0, 1\]"),
        ("min_retain = nan", r"does not lie in \(0, 1\]"),
        ('min_retain = "half"', "min_retain is a string"),
        ("multiple_of = 0", "must be at least 1"),
        ("multiple_of = 1.5", "multiple_of is a number, but must be an integer"),
        ("min_width = true", "min_width is a boolean"),
        ('frozen = "layer1.*"', "frozen must be a list of patterns"),
        ("models = 3", "models must be a list of patterns"),
        ("rule = 3", "rule is an integer"),
        ("[[rule]]\nmin_width = 2", "rule 1 needs a match"),
        ('[[rule]]\nmatch = "*"\nwidth = 2', "rule 1: unknown key 'width'"),
        ('[[rule]]\nmatch = "*"\nmin_width = -1', "rule 1: min_width -1"),
        ("[rule]\nmin_width = 2", "rule is a table"),
        ("format = 9", "format 9 is not known"),
    ],
)
def test_a_wrong_search_space_names_the_file_and_the_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_search_space(written(tmp_path, text + "\n"))
    assert "space.toml" in str(caught.value)


def test_rules_can_be_written_in_python():
    rules = SearchSpaceRules("here", rules=(GroupRule("layer1.*", min_width=5),))
    assert [group.min_width for group in apply_rules(GROUPS, rules)] == [5, 1, 1]


def test_min_width_0_lets_a_group_vanish_unless_a_share_must_remain(tmp_path):
    text = """
min_retain = 0.1
[[rule]]
match = "layer1.*"
min_width = 0
[[rule]]
match = "layer3.*"
min_width = 0
min_retain = 0.05
"""
    first, second, third = applied(tmp_path, text)
    assert (first.min_width, first.branch, first.legal_widths[:2]) == (0, "layer1.0.conv1", (0, 1))
    assert (second.min_width, second.branch) == (4, "")
    assert (third.min_width, third.branch) == (4, "")
