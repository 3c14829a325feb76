import pytest

from autoprune.core.structure import PrunableGroup, Structure, structure_from
from autoprune.errors import StructureError

GROUPS = (PrunableGroup("layer1.conv1", 16), PrunableGroup("layer2.conv1", 32, multiple_of=8))


@pytest.mark.parametrize(
    ("group", "widths"),
    [
        (PrunableGroup("g", 4), (1, 2, 3, 4)),
        (PrunableGroup("g", 10, min_width=3, multiple_of=4), (4, 8, 10)),
        (PrunableGroup("g", 16, multiple_of=8), (8, 16)),
        (PrunableGroup("g", 5, min_width=5), (5,)),
        (PrunableGroup("g", 5, multiple_of=8), (5,)),
        (PrunableGroup("g", 10, min_width=9, multiple_of=4), (10,)),
    ],
)
def test_legal_widths_are_multiples_and_the_dense_width(group: PrunableGroup, widths: tuple[int, ...]) -> None:
    assert group.legal_widths == widths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width 0"),
        ({"width": 4, "min_width": 5}, "min_width 5"),
        ({"width": 4, "min_width": 0}, "min_width 0"),
        ({"width": 4, "multiple_of": 0}, "multiple_of 0"),
    ],
)
def test_impossible_groups_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        PrunableGroup("g", **arguments)


def test_equal_structures_are_one_key() -> None:
    assert {Structure((1, 2)): "seen"}[Structure((1, 2))] == "seen"
    assert list(Structure((3, 4))) == [3, 4]
    assert Structure((3, 4)).by_group(GROUPS) == {"layer1.conv1": 3, "layer2.conv1": 4}


def test_widths_are_read_from_lists_and_from_names() -> None:
    assert structure_from([3, 16], GROUPS) == Structure((3, 16))
    assert structure_from({"layer2.conv1": 8}, GROUPS) == Structure((16, 8))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([3], "1 entries, the network has 2"),
        ({"layer2.conv": 8}, "Did you mean 'layer2.conv1'"),
        ([0, 8], "Width 0 of group 'layer1.conv1'"),
        ([17, 8], "Width 17"),
        ([True, 8], "Width True"),
        ([2.5, 8], "Width 2.5"),
    ],
)
def test_widths_that_do_not_fit_name_what_is_wrong(widths: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        structure_from(widths, GROUPS)


def test_a_negative_width_is_no_structure() -> None:
    with pytest.raises(StructureError, match="negative"):
        Structure((1, -1))
